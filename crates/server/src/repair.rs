//! The time before a node with a damaged log takes part: the turns of a
//! [`sampan_replica::Repairing`]. Peers are there already; clients are told so, and go to another
//! node.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use sampan_base::Time;
use sampan_replica::{Input, OpenReport, Outputs, Repairing, Replica, Start};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::disk::RealDisk;
use crate::inbox::Inbox;
use crate::loading::{LEAVING_MAX, LINGER_TIME};
use crate::log::Log;
use crate::net;
use crate::peer::Peers;
use crate::start::StopRequests;
use crate::time::Clock;

const REPAIRING: &[u8] = b"-LOADING this node repairs its log, ask another one or try again\r\n";

/// What the repair of a log needs of its node.
pub(crate) struct Host<'a> {
    pub(crate) clock: &'a mut Clock,
    pub(crate) log: &'a Log,
    pub(crate) disk: RealDisk,
    pub(crate) inbox: &'a Inbox,
    pub(crate) peers: &'a Peers,
}

impl Host<'_> {
    /// Repairs until the node can take part; `None`: it was asked to stop.
    pub(crate) async fn run(
        mut self,
        mut repairing: Box<Repairing>,
        clients: &TcpListener,
        requests: &mut StopRequests,
    ) -> Result<Option<(Box<Replica>, Box<OpenReport>)>, sampan_replica::OpenError> {
        let mut inputs = Vec::new();
        let mut outputs = Outputs::default();
        let mut leaving = JoinSet::new();
        self.log.warn(&repairing);
        loop {
            let due = repairing.next_deadline();
            if !self.waits_for_a_turn(due, clients, &mut leaving, requests).await {
                return Ok(None);
            }
            let now = self.clock.now();
            self.inbox.take(&mut inputs);
            inputs.drain(..).for_each(|input| repairing.step(now, input));
            repairing.flush(now, &mut outputs);
            outputs.messages.drain(..).for_each(|envelope| self.peers.send(&envelope));
            self.peers.flush();
            if !repairing.is_settled() {
                continue;
            }
            match self.clock.hold(|now| repairing.settle(&mut self.disk, now))? {
                Start::Repairing(next) => {
                    repairing = next;
                    self.log.warn(&repairing);
                }
                Start::Ready(replica, report) => {
                    // The replica has missed the news of who is up and who is not.
                    for id in self.peers.ids() {
                        let is_up = self.peers.is_connected(id);
                        let news =
                            if is_up { Input::PeerConnected } else { Input::PeerUnreachable };
                        self.inbox.push(news(id));
                    }
                    leaving.detach_all();
                    return Ok(Some((replica, report)));
                }
            }
        }
    }

    /// False: there will be none, for the node was asked to stop.
    async fn waits_for_a_turn(
        &self,
        due: Time,
        clients: &TcpListener,
        leaving: &mut JoinSet<()>,
        requests: &mut StopRequests,
    ) -> bool {
        let arrived = poll_fn(|cx| {
            if self.inbox.poll_ready(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
        });
        // The timer's own limit is not far beyond.
        let due = due.min(self.clock.mono() + Duration::from_secs(3_600));
        let time = async {
            match self.clock.instant_of(due) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(_) = requests.0.recv() => false,
            () = arrived => true,
            () = time => true,
            () = turn_away(clients, leaving) => true,
        }
    }
}

/// Tells clients to go, for ever. Where too many are at it, others go without a word.
async fn turn_away(clients: &TcpListener, leaving: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            Some(_) = leaving.join_next() => {}
            accepted = clients.accept() => match accepted {
                Ok((client, _)) if leaving.len() < LEAVING_MAX => {
                    leaving.spawn_local(net::say_and_close(client, REPAIRING, LINGER_TIME));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(net::ACCEPT_RETRY_TIME).await,
            }
        }
    }
}
