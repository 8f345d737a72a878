//! Clients: who asks, how each takes refusals, silence and lost connections, and what the record
//! says of it.
//!
//! A plain client sends a command once and takes "unknown" for an answer. A client with a session
//! sends it again, at any node, until it knows the outcome or the session is gone. Both may have
//! several commands under way on one connection.

use std::collections::BTreeSet;

use bytes::Bytes;
use sampan_base::{LogIndex, NodeId};
use sampan_kv::{Class, Reply, may_be_stale, parse};
use sampan_replica::{ClientReply, ConnectionId, Input, Request};

use crate::backups::Backups;
use crate::checkers::Violation;
use crate::faults::Fault;
use crate::history::{End, Told, ToldWhat};
use crate::queue::SimTime;
use crate::run::{Simulation, Todo};
use crate::swarm::ClientPlan;
use crate::untaken::Output;
use crate::workload::Op;

/// The shortest and longest way between a client and a node, in microseconds.
const CLIENT_LATENCY_US: (u64, u64) = (20, 1_500);
/// The shortest and longest wait before a client tries again, in microseconds.
const BACKOFF_US: (u64, u64) = (5_000, 120_000);

/// What a client wants.
#[derive(Clone, Debug)]
enum Want {
    /// A session.
    Session,
    /// An operation; in a session if it has a place there.
    Operation { op: Op, once: Option<(u64, u64)> },
}

/// Something a client waits for.
#[derive(Clone, Debug)]
struct Pending {
    id: u64,
    want: Want,
    called: SimTime,
    /// How often it was sent.
    attempts: u32,
    /// Where it is under way, if it is.
    sent_as: Option<(ConnectionId, u64)>,
    /// When its node took it, and in which of its lives, if it has.
    arrived: Option<(SimTime, u64)>,
}

/// What a node did not read, because it had enough under way, it looks at again after this.
const READ_AGAIN_US: u64 = 1_000;

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    plan: ClientPlan,
    /// Its connection: to whom, its name, the number of the next request, and when the last one
    /// sent so far arrives.
    connection: Option<(NodeId, ConnectionId, u64, SimTime)>,
    connections: u64,
    /// What the edge of its node holds for it.
    pub(crate) output: Output,
    /// The life of its node that took the connection: with the process the connection ends.
    taken_in_life: Option<u64>,
    /// Requests that have reached its node, which has not read them yet.
    unread: Vec<Request>,
    /// Requests that are to leave together.
    pipeline: Option<Vec<Request>>,
    last_node: Option<NodeId>,
    session: Option<u64>,
    /// The last place in the session that was given to a command.
    sequence: u64,
    /// A command in it that was answered.
    answered: Option<(u64, u64)>,
    /// Places in the session whose outcome is known, above `acked`.
    settled: BTreeSet<u64>,
    /// The outcome of every place through here is known.
    acked: u64,
    pending: Vec<Pending>,
    pendings: u64,
    idle_until: SimTime,
}

impl Client {
    pub(crate) fn new(number: u64, plan: ClientPlan) -> Self {
        Self {
            number,
            plan,
            connection: None,
            connections: 0,
            output: Output::default(),
            taken_in_life: None,
            unread: Vec::new(),
            pipeline: None,
            last_node: None,
            session: None,
            sequence: 0,
            answered: None,
            settled: BTreeSet::new(),
            acked: 0,
            pending: Vec::new(),
            pendings: 0,
            idle_until: SimTime::ZERO,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// One line about what it waits for.
    pub(crate) fn describe(&self) -> String {
        let pending = self.pending.iter().map(|pending| {
            format!("{:?} since {} ({} sent)", pending.want, pending.called, pending.attempts)
        });
        format!("client {}: {}", self.number, pending.collect::<Vec<_>>().join("; "))
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    pub(crate) fn node(&self) -> Option<NodeId> {
        self.connection.map(|(node, ..)| node)
    }

    pub(crate) fn connection_id(&self) -> Option<ConnectionId> {
        self.connection.map(|(_, connection, ..)| connection)
    }

    pub(crate) fn is_idle(&self, now: SimTime) -> bool {
        self.idle_until > now
    }

    pub(crate) fn idle_until(&mut self, at: SimTime) {
        self.idle_until = at;
    }

    /// When its node took this request, which is under way, and in which of its lives.
    pub(crate) fn arrival_of(&self, sent_as: (ConnectionId, u64)) -> Option<(SimTime, u64)> {
        self.pending.iter().find(|pending| pending.sent_as == Some(sent_as))?.arrived
    }

    fn find(&self, id: u64) -> Option<usize> {
        self.pending.iter().position(|pending| pending.id == id)
    }

    fn settle(&mut self, session: u64, sequence: u64) {
        if self.session != Some(session) {
            return;
        }
        self.settled.insert(sequence);
        while self.settled.remove(&(self.acked + 1)) {
            self.acked += 1;
        }
    }

    fn forget_session(&mut self, session: u64) {
        if self.session == Some(session) {
            self.session = None;
            self.sequence = 0;
            self.acked = 0;
            self.settled.clear();
        }
    }
}

/// What an answer means to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The outcome.
    Final,
    /// Certainly not appended.
    NotAppended,
    /// May be applied, now or later.
    Unknown,
    /// The session is gone.
    SessionGone,
    /// The session wants an acknowledgement first.
    SessionFull,
    /// No honest answer to this client.
    Wrong,
}

/// How an operation that is not sent again ends with an answer.
#[cfg(feature = "plants")]
pub(crate) fn end_of(reply: Reply) -> End {
    match judge(&reply) {
        Verdict::Final => End::Answer(reply),
        Verdict::NotAppended => End::Never,
        _ => End::Unknown,
    }
}

fn judge(reply: &Reply) -> Verdict {
    let Reply::Error(text) = reply else { return Verdict::Final };
    match text.split(' ').next().unwrap_or_default() {
        "ERR" => Verdict::Final,
        "CLUSTERDOWN" | "NOSPACE" => Verdict::NotAppended,
        "UNKNOWN" => Verdict::Unknown,
        "SESSIONEXPIRED" => Verdict::SessionGone,
        "SESSIONFULL" => Verdict::SessionFull,
        _ => Verdict::Wrong,
    }
}

impl Simulation {
    /// A client may begin something.
    pub(crate) fn client_thinks(&mut self, client: usize) -> Result<(), Violation> {
        if self.is_draining() {
            return Ok(());
        }
        let mean = self.plan().operation_every_us * self.clients.len() as u64;
        let wait = self.rng.between(0, 2 * mean);
        self.after(wait, Todo::Think(client));
        let now = self.world.now();
        let c = &self.clients[client];
        if c.idle_until > now || c.pending.len() >= c.plan.window {
            return Ok(());
        }
        if c.plan.session && c.session.is_none() {
            let opening = c.pending.iter().any(|pending| matches!(pending.want, Want::Session));
            if !opening {
                self.client_begins(client, Want::Session)?;
            }
            return Ok(());
        }
        // One command, or as many at once as it may have under way.
        let burst = if self.rng.one_in(8) { c.plan.window - c.pending.len() } else { 1 };
        for _ in 0..burst {
            let c = &mut self.clients[client];
            let op = match c.answered.take() {
                Some((session, sequence)) if self.rng.one_in(4) => Op::Outcome(session, sequence),
                _ => self.workload.draw(c.number, now.0),
            };
            self.client_begins_operation(client, op)?;
        }
        Ok(())
    }

    fn client_begins_operation(&mut self, client: usize, op: Op) -> Result<(), Violation> {
        let c = &mut self.clients[client];
        let once = c.session.filter(|_| !op.is_read()).map(|session| {
            c.sequence += 1;
            (session, c.sequence)
        });
        self.client_begins(client, Want::Operation { op, once })
    }

    /// A client asks for so much at once on its connection, whatever it has under way there: mostly
    /// reads.
    pub(crate) fn client_pipelines(
        &mut self,
        client: usize,
        connection: ConnectionId,
        count: u64,
    ) -> Result<(), Violation> {
        let now = self.world.now();
        self.clients[client].pipeline = Some(Vec::new());
        for _ in 0..count {
            let c = &self.clients[client];
            if c.connection_id() != Some(connection) {
                break; // it has hung up in the midst of it
            }
            let (number, may_write) = (c.number, c.pending.len() < c.plan.window);
            let writes = may_write && (c.session.is_some() || !c.plan.session);
            let op = if writes && self.rng.one_in(3) {
                self.workload.draw(number, now.0)
            } else {
                self.workload.draw_read(number, now.0)
            };
            self.client_begins_operation(client, op)?;
        }
        let c = &mut self.clients[client];
        let requests = c.pipeline.take().unwrap_or_default();
        if let Some((node, current, _, at)) = c.connection
            && current == connection
        {
            self.after(at.us_since(now), Todo::Arrive { client, node, connection, requests });
        }
        Ok(())
    }

    fn client_begins(&mut self, client: usize, want: Want) -> Result<(), Violation> {
        let called = self.world.now();
        let c = &mut self.clients[client];
        c.pendings += 1;
        let id = c.pendings;
        c.pending.push(Pending { id, want, called, attempts: 0, sent_as: None, arrived: None });
        self.client_sends(client, id)
    }

    /// Sends something that waits, on the connection there is or on a new one.
    pub(crate) fn client_sends(&mut self, client: usize, id: u64) -> Result<(), Violation> {
        let Some(place) = self.clients[client].find(id) else { return Ok(()) };
        if self.clients[client].pending[place].sent_as.is_some() {
            return Ok(());
        }
        self.client_connects(client);
        let latency = self.client_latency_us();
        let now = self.world.now();
        let ack = self.rng.permille(800);
        let c = &mut self.clients[client];
        let Some((node, connection, seq, last_arrival)) = &mut c.connection else { return Ok(()) };
        *seq += 1;
        let at = now.plus_us(latency).max(*last_arrival);
        *last_arrival = at;
        let (node, connection, seq) = (*node, *connection, *seq);
        let acked = if ack { c.acked } else { 0 };
        let pending = &mut c.pending[place];
        pending.attempts += 1;
        (pending.sent_as, pending.arrived) = (Some((connection, seq)), None);
        let (attempts, args) = (pending.attempts, arguments(&pending.want, acked));
        let mut encoded = Vec::new();
        let class = parse(&args, &self.plan.options.kv, &mut encoded)
            .map_err(|error| Violation::new("client", format!("{args:?} is refused: {error}")))?;
        if attempts > 1 {
            self.counts.add(Fault::Retry, 1);
        }
        self.world
            .trace
            .line(now, || format!("c{} → {node} #{seq} {}", connection.0, args.join(" ")));
        let stale = c.plan.readonly && class != Class::Write && may_be_stale(&encoded);
        let request = Request { seq, class, stale, command: Bytes::from(encoded) };
        if let Some(pipeline) = &mut self.clients[client].pipeline {
            pipeline.push(request);
        } else {
            let requests = vec![request];
            self.after(at.us_since(now), Todo::Arrive { client, node, connection, requests });
        }
        let patience = self.plan.client_patience_us;
        self.after(patience, Todo::Patience { client, id, attempts });
        debug_assert!(
            class == Class::Write || !self.clients[client].plan.session || acked < u64::MAX
        );
        if std::mem::take(&mut self.next_client_hangs_up) {
            self.client_hangs_up(client);
        }
        Ok(())
    }

    /// Makes a connection if there is none.
    fn client_connects(&mut self, client: usize) {
        let c = &self.clients[client];
        if c.connection.is_some() {
            return;
        }
        let machines: Vec<NodeId> = self.world.nodes().map(crate::node::Node::id).collect();
        if machines.is_empty() {
            return;
        }
        let stays = c.last_node.filter(|node| c.plan.loyal && machines.contains(node));
        let loyal = self.rng.permille(700);
        let node = stays.filter(|_| loyal).unwrap_or_else(|| *self.rng.pick(&machines));
        let c = &mut self.clients[client];
        c.connections += 1;
        c.last_node = Some(node);
        let connection = ConnectionId(c.number << 32 | c.connections);
        c.connection = Some((node, connection, 0, SimTime::ZERO));
    }

    fn client_latency_us(&mut self) -> u64 {
        self.rng.between(CLIENT_LATENCY_US.0, CLIENT_LATENCY_US.1)
    }

    /// Requests reach their node, if there is one. A node that has enough under way does not read
    /// them yet.
    pub(crate) fn requests_arrive(
        &mut self,
        client: usize,
        node: NodeId,
        connection: ConnectionId,
        requests: Vec<Request>,
    ) -> Result<(), Violation> {
        let c = &mut self.clients[client];
        if c.connection_id() != Some(connection) {
            return Ok(()); // closed meanwhile
        }
        let life = self.world.get(node).filter(|node| node.is_up()).map(crate::node::Node::lives);
        c.taken_in_life = c.taken_in_life.or(life);
        let is_first = c.unread.is_empty();
        c.unread.extend(requests);
        if is_first { self.requests_are_read(client, node, connection) } else { Ok(()) }
    }

    /// A node reads what has reached it on a connection, or looks again in a while.
    pub(crate) fn requests_are_read(
        &mut self,
        client: usize,
        node: NodeId,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        if self.clients[client].connection_id() != Some(connection) {
            return Ok(()); // closed meanwhile
        }
        let replica = self.world.get(node).and_then(crate::node::Node::replica);
        if replica.is_some_and(sampan_replica::Replica::is_congested) {
            self.left_unread += 1;
            self.after(READ_AGAIN_US, Todo::Read { client, node, connection });
            return Ok(());
        }
        let requests = std::mem::take(&mut self.clients[client].unread);
        let life = self.world.get(node).filter(|node| node.is_up()).map(crate::node::Node::lives);
        if life.is_none() || life != self.clients[client].taken_in_life {
            let latency = self.client_latency_us();
            self.after(latency, Todo::Reset { client, connection });
            return Ok(());
        }
        let taker = self.world.get(node).filter(|node| node.replica().is_some());
        let arrived = taker.map(|node| (self.world.now(), node.lives()));
        for pending in &mut self.clients[client].pending {
            let is_of = |(of, seq)| of == connection && requests.iter().any(|r| r.seq == seq);
            if pending.sent_as.is_some_and(is_of) {
                pending.arrived = arrived;
            }
        }
        self.world.input(node, Input::Client { connection, requests })
    }

    /// A node answered: the answer is on its way to the client, or kept for one that does not take
    /// it.
    pub(crate) fn reply_leaves(
        &mut self,
        node: NodeId,
        reply: ClientReply,
    ) -> Result<(), Violation> {
        if Backups::is_operators(reply.connection) {
            self.backups.replied(&reply);
            return Ok(());
        }
        let client = (reply.connection.0 >> 32) as usize;
        let c = &self.clients[client];
        if c.connection_id() == Some(reply.connection) && c.output.is_stuck() {
            return self.keep_reply(node, client, reply);
        }
        self.answer_later(client, reply);
        Ok(())
    }

    pub(crate) fn answer_later(&mut self, client: usize, reply: ClientReply) {
        let latency = self.client_latency_us();
        self.after(latency, Todo::Answer { client, reply: Box::new(reply) });
    }

    /// An answer reaches its client.
    pub(crate) fn reply_arrives(
        &mut self,
        client: usize,
        answer: ClientReply,
    ) -> Result<(), Violation> {
        let ClientReply { connection, seq, reply, decided_at } = answer;
        let pending = &self.clients[client].pending;
        let place = pending.iter().position(|pending| pending.sent_as == Some((connection, seq)));
        let Some(place) = place else { return Ok(()) };
        self.clients[client].pending[place].sent_as = None;
        self.backups.answered(decided_at);
        let id = self.clients[client].pending[place].id;
        let verdict = judge(&reply);
        if verdict == Verdict::Wrong
            || (verdict == Verdict::Final && self.is_wrong(client, place, &reply))
        {
            let what = &self.clients[client].pending[place];
            return Err(Violation::new("client", format!("{what:?} was answered {reply:?}")));
        }
        let Pending { want, attempts, .. } = &self.clients[client].pending[place];
        let sent_once = *attempts == 1;
        let once = match want {
            Want::Session => None,
            Want::Operation { op, once } => {
                if verdict == Verdict::Final
                    && let Some(what) = ToldWhat::of(op, &reply, *attempts, once.is_some())
                {
                    let connection = connection.0;
                    self.record.told.push(Told { connection, seq, decided_at, what });
                }
                *once
            }
        };
        match (verdict, once) {
            (Verdict::Final, _) => self.client_learns(client, id, End::Answer(reply), decided_at),
            (Verdict::SessionGone, Some((session, _))) => {
                self.counts.add(Fault::SessionExpiry, 1);
                self.clients[client].forget_session(session);
                // That copy was not executed. An earlier one may have been, but not of a command
                // that was sent once: of what a node has repeated it says no such thing.
                let end = if sent_once { End::Never } else { End::Unknown };
                self.client_learns(client, id, end, decided_at);
            }
            (Verdict::NotAppended | Verdict::Unknown | Verdict::SessionFull, Some(_)) => {
                self.client_retries(client, id);
            }
            (Verdict::NotAppended, None) if self.clients[client].plan.session => {
                self.client_retries(client, id);
            }
            (Verdict::NotAppended, None) => self.client_learns(client, id, End::Never, decided_at),
            (_, None) => self.client_learns(client, id, End::Unknown, decided_at),
            (Verdict::Wrong, Some(_)) => unreachable!("judged above"),
        }
        Ok(())
    }

    /// Is a final answer to an opening anything but a session's number?
    fn is_wrong(&self, client: usize, place: usize, reply: &Reply) -> bool {
        matches!(self.clients[client].pending[place].want, Want::Session)
            && !matches!(reply, Reply::Int(id) if *id > 0)
    }

    /// Something a client waited for has ended.
    fn client_learns(&mut self, client: usize, id: u64, end: End, _decided_at: LogIndex) {
        let now = self.world.now();
        let c = &mut self.clients[client];
        let Some(place) = c.find(id) else { return };
        let Pending { want, called, .. } = c.pending.remove(place);
        match want {
            Want::Session => {
                if let End::Answer(Reply::Int(session)) = end {
                    c.session = Some(session as u64);
                }
            }
            Want::Operation { op, once } => {
                if let Some((session, sequence)) = once {
                    c.settle(session, sequence);
                    c.answered = once.filter(|_| matches!(end, End::Answer(_)));
                }
                if c.plan.readonly && op.may_be_stale() {
                    self.record.push_stale(&end);
                } else {
                    self.record.push(c.number, &op, called, now, &end);
                }
            }
        }
    }

    fn client_retries(&mut self, client: usize, id: u64) {
        if self.rng.one_in(4) {
            self.client_hangs_up(client); // it tries elsewhere, with all it waits for
        }
        let backoff = self.rng.between(BACKOFF_US.0, BACKOFF_US.1);
        self.after(backoff, Todo::Retry { client, id });
    }

    /// A client has waited long for an attempt.
    pub(crate) fn patience_ends(
        &mut self,
        client: usize,
        id: u64,
        attempts: u32,
    ) -> Result<(), Violation> {
        let c = &self.clients[client];
        let pending = c.find(id).map(|place| &c.pending[place]);
        let pending = pending.filter(|pending| pending.attempts == attempts);
        let Some(sent_as) = pending.and_then(|pending| pending.sent_as) else { return Ok(()) };
        match self.waits_on_us(client, sent_as)? {
            Some(us) => self.after(us, Todo::Patience { client, id, attempts }),
            None => self.client_hangs_up(client),
        }
        Ok(())
    }

    /// A connection was closed by the other side.
    pub(crate) fn connection_resets(&mut self, client: usize, connection: ConnectionId) {
        if self.clients[client].connection.is_some_and(|(_, current, ..)| current == connection) {
            self.client_loses_connection(client);
        }
    }

    /// A client closes its connection without waiting for answers.
    pub(crate) fn client_hangs_up(&mut self, client: usize) {
        if let Some((node, connection, ..)) = self.clients[client].connection {
            let latency = self.client_latency_us();
            self.after(latency, Todo::Close { node, connection });
            self.client_loses_connection(client);
        }
    }

    fn client_loses_connection(&mut self, client: usize) {
        let c = &mut self.clients[client];
        (c.connection, c.output, c.taken_in_life) = (None, Output::default(), None);
        c.unread.clear();
        let under_way: Vec<(u64, bool)> = c
            .pending
            .iter_mut()
            .filter_map(|pending| pending.sent_as.take().map(|_| pending))
            .map(|pending| {
                let once = matches!(pending.want, Want::Operation { once: Some(_), .. });
                let read = matches!(&pending.want, Want::Operation { op, .. } if op.is_read());
                (pending.id, once || read)
            })
            .collect();
        let session = c.plan.session;
        for (id, repeatable) in under_way {
            if session && repeatable {
                let backoff = self.rng.between(BACKOFF_US.0, BACKOFF_US.1);
                self.after(backoff, Todo::Retry { client, id });
            } else {
                self.client_learns(client, id, End::Unknown, LogIndex::ZERO);
            }
        }
    }
}

/// The words a client sends.
fn arguments(want: &Want, acked: u64) -> Vec<String> {
    match want {
        Want::Session => vec!["SESSION".into(), "OPEN".into()],
        Want::Operation { op, once: None } => op.args(),
        Want::Operation { op, once: Some((session, sequence)) } => {
            let mut args = vec!["ONCE".into(), session.to_string(), sequence.to_string()];
            if acked > 0 && acked < *sequence {
                args.extend(["ACK".into(), acked.to_string()]);
            }
            args.extend(op.args());
            args
        }
    }
}
