//! Which peers have been missing for long: a warning when one is, and a line when it is back.
//!
//! What it is not: what happens to connections, which `link.rs` says line by line; or of any weight
//! for consensus.

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_base::{NodeId, Time};

/// A peer that is away for less is not worth a warning: it was started again, or is yet to be.
const PATIENCE: Duration = Duration::from_secs(10);

/// All of them.
pub(crate) struct MissingPeers {
    by_id: BTreeMap<NodeId, Peer>,
    began: Time,
}

/// What is known of one.
struct Peer {
    connected_at: Time,
    /// There was a warning: since when it is missing, and whether for want of a connection.
    missing: Option<(Time, bool)>,
}

/// What is to be said.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Since when there is no connection to it.
    Unconnected(Duration),
    /// Since when this leader, which is connected to it, has not heard it.
    Unheard(Duration),
    /// After so long.
    Back(Duration),
}

impl MissingPeers {
    pub(crate) const fn new(now: Time) -> Self {
        Self { by_id: BTreeMap::new(), began: now }
    }

    /// Is there a connection to it, and, if this node leads, when was it heard?
    pub(crate) fn look(
        &mut self,
        now: Time,
        id: NodeId,
        is_connected: bool,
        heard_at: Option<Time>,
    ) -> Option<News> {
        let connected_at = self.began;
        let peer = self.by_id.entry(id).or_insert(Peer { connected_at, missing: None });
        if is_connected {
            peer.connected_at = now;
        }
        let is_silent = |at: Time| now.since(at) >= PATIENCE;
        match peer.missing {
            None if is_silent(peer.connected_at) => {
                peer.missing = Some((peer.connected_at, true));
                Some(News::Unconnected(now.since(peer.connected_at)))
            }
            None => {
                let heard_at = heard_at.filter(|at| is_connected && is_silent(*at))?;
                peer.missing = Some((heard_at, false));
                Some(News::Unheard(now.since(heard_at)))
            }
            Some((_, true)) if !is_connected => None,
            Some((_, false)) if heard_at.is_some_and(is_silent) => None,
            Some((since, for_connection)) => {
                peer.missing = None;
                // A node that leads no more hears of nobody.
                let is_back = for_connection || heard_at.is_some();
                is_back.then(|| News::Back(now.since(since)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N2: NodeId = NodeId::of(2);

    /// What is said in the seconds in which something is.
    fn said(looks: impl Fn(u64) -> (bool, Option<u64>)) -> Vec<(u64, News)> {
        let at = |s: u64| Time(s * 1_000_000);
        let mut peers = MissingPeers::new(at(0));
        let news = (0..100).map(|s| {
            let (is_connected, heard_s) = looks(s);
            (s, peers.look(at(s), N2, is_connected, heard_s.map(at)))
        });
        news.filter_map(|(s, news)| Some((s, news?))).collect()
    }

    const fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_peer_without_a_connection_is_missed_once_and_is_back_once() {
        assert_eq!(said(|s| (s >= 9, None)), [], "it takes its time to start");
        assert_eq!(said(|s| (s % 10 == 0, None)), [], "it comes and goes");
        let gone = said(|s| (!(30..50).contains(&s), None));
        let missed = (39, News::Unconnected(seconds(10)));
        assert_eq!(gone, [missed, (50, News::Back(seconds(21)))]);
    }

    #[test]
    fn a_leader_misses_a_peer_that_says_nothing() {
        let silent = said(|s| (true, Some(if (30..50).contains(&s) { 30 } else { s })));
        assert_eq!(silent, [(40, News::Unheard(seconds(10))), (50, News::Back(seconds(20)))]);
        let deposed = said(|s| (true, (s < 60).then_some(s.min(30))));
        assert_eq!(deposed, [(40, News::Unheard(seconds(10)))], "it does not know any more");
    }
}
