//! Calls of clerks that are at a server: who waits for which reply, and what becomes of a call
//! whose server is cut off, gone or silent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sampan_kv::Reply;
use sampan_replica::{ClientReply, ConnectionId};

use crate::queue::SimTime;

use super::lab::Lab;

/// How often it is looked whether the server of a call is still there, in milliseconds.
const WATCH_EVERY_MS: u64 = 100;
/// A clerk gives a silent server up after this long, in milliseconds.
pub(crate) const PATIENCE_MS: u64 = 500;

/// Which servers a clerk reaches.
pub(crate) type Reach = Rc<RefCell<Vec<bool>>>;

/// A call came to nothing: nobody knows what became of what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed;

/// Where the end of a call is left for the clerk.
#[derive(Default)]
struct Slot {
    end: Option<Result<Reply, Failed>>,
    waker: Option<Waker>,
}

/// A call that a server works on.
struct Pending {
    server: usize,
    life: u64,
    seq: u64,
    since: SimTime,
    reach: Reach,
    slot: Rc<RefCell<Slot>>,
}

impl Pending {
    fn end(self, end: Result<Reply, Failed>) {
        let mut slot = self.slot.borrow_mut();
        slot.end = Some(end);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}

/// What a clerk asks of a server.
pub(crate) struct Ask {
    /// The server.
    pub(crate) server: usize,
    /// Its life.
    pub(crate) life: u64,
    /// The connection.
    pub(crate) connection: ConnectionId,
    /// The number of the request on the connection.
    pub(crate) seq: u64,
}

/// All calls at servers. A connection has at most one.
#[derive(Default)]
pub(crate) struct Calls {
    pending: BTreeMap<ConnectionId, Pending>,
    watched: bool,
}

impl Calls {
    /// A call has reached its server.
    pub(crate) fn begin(&mut self, ask: Ask, now: SimTime, reach: &Reach) -> Answer {
        let slot = Rc::new(RefCell::new(Slot::default()));
        let Ask { server, life, connection, seq } = ask;
        let (reach, kept) = (Rc::clone(reach), Rc::clone(&slot));
        let pending = Pending { server, life, seq, since: now, reach, slot: kept };
        let before = self.pending.insert(connection, pending);
        assert!(before.is_none(), "connection {connection:?} has two calls");
        Answer(slot)
    }

    /// A server answered.
    pub(crate) fn replied(&mut self, server: usize, reply: ClientReply) {
        let fits = |call: &Pending| call.server == server && call.seq == reply.seq;
        if self.pending.get(&reply.connection).is_some_and(fits)
            && let Some(call) = self.pending.remove(&reply.connection)
        {
            call.end(Ok(reply.reply));
        }
    }

    /// True the first time: somebody has to watch from now on.
    pub(crate) fn start_watching(&mut self) -> bool {
        !std::mem::replace(&mut self.watched, true)
    }
}

/// Ends the calls whose server is cut off from the clerk, gone, or silent for too long. A task.
pub(crate) async fn watch(lab: Lab) {
    loop {
        lab.sleep_ms(WATCH_EVERY_MS).await;
        let mut state = lab.state();
        let now = state.world.now();
        let (world, calls) = (&state.world, &state.calls);
        let is_lost = |call: &Pending| {
            let node = world.node(super::lab::node_of(call.server));
            !node.is_up()
                || node.lives() != call.life
                || !call.reach.borrow()[call.server]
                || now.us_since(call.since) >= PATIENCE_MS * 1_000
        };
        let lost: Vec<ConnectionId> =
            calls.pending.iter().filter(|(_, call)| is_lost(call)).map(|(id, _)| *id).collect();
        for connection in lost {
            if let Some(call) = state.calls.pending.remove(&connection) {
                call.end(Err(Failed));
            }
        }
    }
}

/// The end of a call, awaited.
pub(crate) struct Answer(Rc<RefCell<Slot>>);

impl Future for Answer {
    type Output = Result<Reply, Failed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.borrow_mut();
        if let Some(end) = slot.end.take() {
            Poll::Ready(end)
        } else {
            slot.waker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}
