//! The network of the swarm: everything a network may do to frames that carry a checksum.
//!
//! Links are directed, so a cut may be one-way. Cuts nest: two partitions that overlap heal one by
//! one.

use sampan_base::{NodeId, Rng};
use sampan_replica::Stream;
use sampan_replica::wire::PeerMessage;

use crate::network::{Delivery, Network, Sending};
use crate::queue::SimTime;

/// How often, of 1000 messages, what happens; and how long messages take.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rates {
    /// Lost.
    pub drop: u64,
    /// Arrive twice.
    pub duplicate: u64,
    /// Arrive with other bytes.
    pub corrupt: u64,
    /// Delayed by up to `delay_us_max`: several terms.
    pub delay: u64,
    /// The longest such delay.
    pub delay_us_max: u64,
    /// May messages of one stream overtake each other?
    pub reorder: bool,
    /// The shortest and the longest normal way.
    pub latency_us: (u64, u64),
}

/// What it has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetworkCounts {
    /// Messages lost at random.
    pub dropped: u64,
    /// Messages doubled.
    pub duplicated: u64,
    /// Messages whose bytes changed.
    pub corrupted: u64,
    /// Messages delayed beyond the normal.
    pub delayed: u64,
    /// Messages that overtook another one of their stream.
    pub reordered: u64,
    /// Messages lost in a cut.
    pub cut: u64,
    /// Messages on a slow link.
    pub slowed: u64,
}

/// The most machines a run ever has.
pub const NODES_MAX: usize = 64;

#[derive(Clone, Copy, Default, Debug)]
struct Link {
    /// Cuts at work here.
    cuts: u8,
    /// Slower by this factor; 0 and 1: normal.
    slowness: u16,
    /// The latest arrival on each stream.
    last_arrival: [SimTime; 2],
}

/// The network.
pub struct SwarmNetwork {
    /// In force now.
    pub rates: Rates,
    /// What it has done.
    pub counts: NetworkCounts,
    links: Vec<Link>,
    rng: Rng,
}

impl SwarmNetwork {
    /// A network without cuts.
    pub fn new(rates: Rates, rng: Rng) -> Self {
        let links = vec![Link::default(); NODES_MAX * NODES_MAX];
        Self { rates, counts: NetworkCounts::default(), links, rng }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let (from, to) = (from.get() as usize, to.get() as usize);
        assert!(from < NODES_MAX && to < NODES_MAX, "at most {NODES_MAX} machines a run");
        &mut self.links[from * NODES_MAX + to]
    }

    /// Cuts the way from one node to another.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cuts += 1;
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Is the way open?
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        self.links[from.get() as usize * NODES_MAX + to.get() as usize].cuts == 0
    }

    /// Makes a way slower by a factor; 1 is normal.
    pub fn slow_down(&mut self, from: NodeId, to: NodeId, times: u16) {
        self.link(from, to).slowness = times;
    }

    /// Ends all faults: nothing is lost, cut, slow, doubled, changed or delayed any more.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            (link.cuts, link.slowness) = (0, 0);
        }
        let latency_us = self.rates.latency_us;
        self.rates = Rates { latency_us, ..Rates::default() };
    }

    /// How long a message is on its way.
    fn latency_us(&mut self, slowness: u16) -> u64 {
        let (low, high) = self.rates.latency_us;
        let mut us = self.rng.between(low, high);
        if slowness > 1 {
            self.counts.slowed += 1;
            us *= u64::from(slowness);
        }
        if self.rng.permille(self.rates.delay) {
            self.counts.delayed += 1;
            us += self.rng.below(self.rates.delay_us_max);
        }
        us
    }

    /// When a message arrives: not before an older one of its stream, unless the network reorders.
    fn arrival(&mut self, now: SimTime, sending: &Sending<'_>, slowness: u16) -> SimTime {
        let mut at = now.plus_us(self.latency_us(slowness));
        let reorder = self.rates.reorder;
        let stream = usize::from(sending.stream == Stream::Bulk);
        let last = &mut self.link(sending.from, sending.to).last_arrival[stream];
        let overtakes = at < *last;
        if overtakes && !reorder {
            at = *last;
        }
        *last = at.max(*last);
        self.counts.reordered += u64::from(overtakes && reorder);
        at
    }
}

impl Network for SwarmNetwork {
    fn send(&mut self, now: SimTime, sending: Sending<'_>, deliveries: &mut Vec<Delivery>) {
        let Link { cuts, slowness, .. } = *self.link(sending.from, sending.to);
        if cuts > 0 {
            self.counts.cut += 1;
            return;
        }
        if self.rng.permille(self.rates.drop) {
            self.counts.dropped += 1;
            return;
        }
        let copies = if self.rng.permille(self.rates.duplicate) { 2 } else { 1 };
        self.counts.duplicated += copies - 1;
        for _ in 0..copies {
            let corrupt = self.rng.permille(self.rates.corrupt);
            self.counts.corrupted += u64::from(corrupt);
            let after_us = self.arrival(now, &sending, slowness).us_since(now);
            deliveries.push(Delivery { after_us, corrupt });
        }
    }

    /// By every second frame, so that a way that is cut shows both what is known and what is not.
    fn is_known_unconnected(&self, sending: &Sending<'_>) -> bool {
        matches!(sending.message, PeerMessage::Forward(forward) if forward.frame_seq % 2 == 0)
            && !self.is_open(sending.from, sending.to)
    }

    fn arrives(&mut self, _now: SimTime, from: NodeId, to: NodeId) -> bool {
        let open = self.is_open(from, to);
        self.counts.cut += u64::from(!open);
        open
    }

    fn hint_us(&mut self, _now: SimTime, from: NodeId, to: NodeId) -> Option<u64> {
        self.is_open(from, to).then(|| self.latency_us(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::Term;
    use sampan_raft::{Body, Message};
    use sampan_replica::wire::PeerMessage;

    fn send(network: &mut SwarmNetwork, from: u64, to: u64) -> Vec<Delivery> {
        let (from, to) = (NodeId::of(from), NodeId::of(to));
        let message =
            PeerMessage::Raft(Message { from, to, term: Term(1), body: Body::TimeoutNow });
        let stream = Stream::Main;
        let sending = Sending { from, to, stream, message: &message, frame_bytes: 50 };
        let mut deliveries = Vec::new();
        network.send(SimTime(1_000), sending, &mut deliveries);
        deliveries
    }

    fn network(rates: Rates) -> SwarmNetwork {
        SwarmNetwork::new(Rates { latency_us: (100, 5_000), ..rates }, Rng::seeded(1))
    }

    #[test]
    fn a_cut_is_one_way_and_cuts_nest() {
        let mut network = network(Rates::default());
        let (a, b) = (NodeId::of(1), NodeId::of(2));
        network.cut(a, b);
        network.cut(a, b);
        assert!(send(&mut network, 1, 2).is_empty());
        assert_eq!(send(&mut network, 2, 1).len(), 1);
        network.mend(a, b);
        assert!(!network.is_open(a, b) && !network.arrives(SimTime::ZERO, a, b));
        network.mend(a, b);
        assert_eq!(send(&mut network, 1, 2).len(), 1);
    }

    #[test]
    fn order_is_kept_unless_the_network_reorders() {
        for reorder in [false, true] {
            let mut network = network(Rates { reorder, ..Rates::default() });
            let arrivals: Vec<u64> =
                (0..50).map(|_| send(&mut network, 1, 2)[0].after_us).collect();
            assert_eq!(arrivals.is_sorted(), !reorder);
            assert_eq!(network.counts.reordered > 0, reorder);
        }
    }

    #[test]
    fn each_rate_does_what_it_says_and_healing_ends_it() {
        let rates = Rates {
            drop: 100,
            duplicate: 100,
            corrupt: 100,
            delay: 100,
            delay_us_max: 1_000_000,
            ..Rates::default()
        };
        let mut network = network(rates);
        network.slow_down(NodeId::of(1), NodeId::of(2), 10);
        for _ in 0..2_000 {
            send(&mut network, 1, 2);
        }
        let counts = network.counts;
        for count in [counts.dropped, counts.duplicated, counts.corrupted, counts.delayed] {
            assert!((120..300).contains(&count), "{counts:?}");
        }
        assert!(counts.slowed > 1_500);
        network.heal();
        for _ in 0..200 {
            send(&mut network, 1, 2);
        }
        assert_eq!(network.counts, counts);
    }
}
