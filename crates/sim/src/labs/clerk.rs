//! The labs' Clerk: what an application uses, in virtual time.
//!
//! It speaks the session protocol of `docs/protocol.md`: `SESSION OPEN` once, then every write as
//! `ONCE session sequence ACK ... command`, sent again until it is answered, for ever. Its calls go
//! through the labs' network like any other, each attempt one RPC.
//!
//! It has its ends to the servers in a random order of its own. It asks one who leads
//! (`CLUSTER NODES` in a server; answered from [`sampan_replica::Replica::leader`]) and stays with
//! the leader, since a follower hands commands on and that costs a call more. A call that failed is
//! tried again at the same server, up to three times, then at the next one; when all of them failed
//! it waits, longer each time.

use bytes::Bytes;
use sampan_kv::{Class, Reply};
use sampan_lincheck::Action;
use sampan_replica::{ConnectionId, Input, Request};

use crate::queue::SimTime;

use super::applied::encode;
use super::calls::{self, Ask, Failed, Reach};
use super::lab::{Lab, Outcome, State, fail, node_of};
use super::network::number_of;
use super::record::{Span, text};

/// The first and the longest wait after all servers failed, in milliseconds.
const BACKOFF_MS: (u64, u64) = (10, 160);
/// After so many calls in a row that failed it turns to the next server.
const TRIES: u32 = 3;
/// After so many calls it asks again who leads.
const ASK_AGAIN_AFTER: u32 = 200;
/// And after so many if it does not call the leader.
const FEW: u32 = 4;
/// Bytes of a call beside its command, and of a reply beside its value: their frames.
const FRAME_BYTES: u64 = 36;

/// A connection to one life of a server.
#[derive(Clone, Copy, Debug)]
struct Connection {
    life: u64,
    id: ConnectionId,
    last_seq: u64,
}

/// What a reply says about the call that it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Final,
    /// Try again.
    Again,
    /// Try again elsewhere.
    Elsewhere,
    /// The session is gone, or disagrees with us: no lab gives reason for that.
    SessionBroken,
}

fn judge(reply: &Reply) -> Verdict {
    let Reply::Error(text) = reply else { return Verdict::Final };
    match text.split(' ').next().unwrap_or_default() {
        "UNKNOWN" | "NOSPACE" | "SESSIONFULL" => Verdict::Again,
        "CLUSTERDOWN" => Verdict::Elsewhere,
        "SESSIONEXPIRED" | "SESSIONSTALE" | "SESSIONREUSED" => Verdict::SessionBroken,
        _ => Verdict::Final,
    }
}

/// A client with one operation at a time.
pub(crate) struct Clerk {
    lab: Lab,
    /// Its number in the history.
    number: u64,
    reach: Reach,
    /// The servers in its own order.
    order: Vec<usize>,
    /// Its place in that order.
    place: usize,
    /// The server that it stays with.
    current: Option<usize>,
    /// The last one that it gave up: others may reach it and hand commands on.
    given_up: Option<usize>,
    calls_since_asked: u32,
    /// Calls in a row that failed.
    failures: u32,
    backoff_ms: u64,
    connections: Vec<Option<Connection>>,
    session: Option<u64>,
    sequence: u64,
}

impl Clerk {
    /// A clerk that reaches all servers.
    pub(crate) fn new(lab: &Lab, number: u64) -> Self {
        let all: Vec<usize> = lab.servers().collect();
        Self::reaching(lab, number, &all)
    }

    /// A clerk that reaches these servers.
    pub(crate) fn reaching(lab: &Lab, number: u64, servers: &[usize]) -> Self {
        let count = lab.count();
        let mut order: Vec<usize> = (0..count).collect();
        lab.state().rng.shuffle(&mut order);
        if lab.state().calls.start_watching() {
            lab.spawn(calls::watch(lab.clone()));
        }
        let clerk = Self {
            lab: lab.clone(),
            number,
            reach: Reach::default(),
            order,
            place: 0,
            current: None,
            given_up: None,
            calls_since_asked: 0,
            failures: 0,
            backoff_ms: BACKOFF_MS.0,
            connections: vec![None; count],
            session: None,
            sequence: 0,
        };
        *clerk.reach.borrow_mut() = (0..count).map(|server| servers.contains(&server)).collect();
        clerk
    }

    /// Which servers it reaches, to change it.
    pub(crate) fn reach(&self) -> Reach {
        Reach::clone(&self.reach)
    }

    // ------------------------------------------------------------------------- operations

    /// Reads a key; a missing one reads as nothing.
    pub(crate) async fn get(&mut self, key: &str) -> Outcome<Bytes> {
        let (value, span) = self.read(key).await?;
        let seen = value.as_deref().map(text);
        let out = Some(seen.as_deref());
        self.record(key, span, Action::Get { out });
        Ok(value.unwrap_or_default())
    }

    /// Sets a key.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> Outcome {
        let span = self.set(key, value).await?;
        self.record(key, span, Action::Put { value });
        Ok(())
    }

    /// Adds to a key.
    pub(crate) async fn append(&mut self, key: &str, value: &str) -> Outcome {
        let (length, span) = self.add(key, value).await?;
        self.record(key, span, Action::Append { value, out: Some(length) });
        Ok(())
    }

    /// Reads a key and fails if it does not hold this.
    pub(crate) async fn check(&mut self, key: &str, expected: &str) -> Outcome {
        let value = self.get(key).await?;
        if value == expected.as_bytes() {
            return Ok(());
        }
        fail(format!("{key} reads {:.60}, expected {expected:.60}", text(&value)))
    }

    /// Notes an operation in the history.
    pub(crate) fn record(&self, key: &str, span: Span, action: Action<&str>) {
        self.lab.state().record.push(self.number, key, span, action);
    }

    // ------------------------------------------------------- operations without a record

    /// Reads a key.
    pub(crate) async fn read(&mut self, key: &str) -> Outcome<(Option<Bytes>, Span)> {
        let called = self.lab.now();
        let (class, command) = encode(&[b"GET", key.as_bytes()]);
        let value = match self.until_answered(class, &command).await? {
            Reply::Nil => None,
            Reply::Bulk(value) => Some(value),
            other => return fail(format!("GET {key} answered {other:?}")),
        };
        Ok((value, self.done(called)))
    }

    /// Sets a key.
    pub(crate) async fn set(&mut self, key: &str, value: &str) -> Outcome<Span> {
        let called = self.lab.now();
        match self.write(&["SET", key, value]).await? {
            Reply::Ok => Ok(self.done(called)),
            other => fail(format!("SET {key} answered {other:?}")),
        }
    }

    /// Adds to a key and gives the length of what it holds then, in bytes.
    pub(crate) async fn add(&mut self, key: &str, value: &str) -> Outcome<(u64, Span)> {
        let called = self.lab.now();
        match self.write(&["APPEND", key, value]).await? {
            Reply::Int(length) => Ok((length as u64, self.done(called))),
            other => fail(format!("APPEND {key} answered {other:?}")),
        }
    }

    /// An operation is done: it counts.
    fn done(&self, called: SimTime) -> Span {
        let mut state = self.lab.state();
        state.ops += 1;
        Span { called, returned: state.world.now() }
    }

    /// Runs a write once.
    async fn write(&mut self, args: &[&str]) -> Outcome<Reply> {
        let session = self.session().await?.to_string();
        self.sequence += 1;
        let (sequence, acked) = (self.sequence.to_string(), (self.sequence - 1).to_string());
        let mut words = vec!["ONCE", &session, &sequence];
        if self.sequence > 1 {
            words.extend(["ACK", &acked]);
        }
        words.extend(args);
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let (class, command) = encode(&words);
        self.until_answered(class, &command).await
    }

    /// The session; opened at the first write. One that nobody was told of stays unused.
    async fn session(&mut self) -> Outcome<u64> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        let (class, command) = encode(&[b"SESSION", b"OPEN"]);
        match self.until_answered(class, &command).await? {
            Reply::Int(id) => {
                self.session = Some(id as u64);
                Ok(id as u64)
            }
            other => fail(format!("SESSION OPEN answered {other:?}")),
        }
    }

    // ------------------------------------------------------------------------- attempts

    /// Sends a command until it is answered.
    async fn until_answered(&mut self, class: Class, command: &Bytes) -> Outcome<Reply> {
        loop {
            let server = self.server().await?;
            match self.call(server, class, command).await? {
                Err(Failed) => self.failed(),
                Ok(reply) => match judge(&reply) {
                    Verdict::Final => {
                        self.failures = 0;
                        self.given_up = None;
                        self.backoff_ms = BACKOFF_MS.0;
                        return Ok(reply);
                    }
                    Verdict::Again => self.failures += 1,
                    Verdict::Elsewhere => self.next_server(),
                    Verdict::SessionBroken => return fail(format!("a clerk was told {reply:?}")),
                },
            }
            self.back_off().await;
        }
    }

    /// The server to call: the leader as far as it knows.
    async fn server(&mut self) -> Outcome<usize> {
        if let Some(current) = self.current
            && self.calls_since_asked < ASK_AGAIN_AFTER
        {
            self.calls_since_asked += 1;
            return Ok(current);
        }
        loop {
            let asked = self.current.unwrap_or(self.order[self.place]);
            match self.ask_who_leads(asked).await? {
                Ok(leader) => {
                    let server = leader.filter(|_| leader != self.given_up).unwrap_or(asked);
                    self.current = Some(server);
                    // Who hands commands on costs a call more each time.
                    let few_calls = leader != self.current;
                    self.calls_since_asked = if few_calls { ASK_AGAIN_AFTER - FEW } else { 0 };
                    return Ok(server);
                }
                Err(Failed) => self.failed(),
            }
            self.back_off().await;
        }
    }

    /// A call failed: now and then is chance, [`TRIES`] times in a row is the server.
    fn failed(&mut self) {
        if self.failures % TRIES == TRIES - 1 || self.current.is_none() {
            self.next_server();
        } else {
            self.failures += 1;
        }
    }

    fn next_server(&mut self) {
        self.failures += 1;
        self.place = (self.place + 1) % self.order.len();
        self.given_up = self.current.take();
    }

    /// Waits after each round of servers that failed.
    async fn back_off(&mut self) {
        let round = TRIES * self.order.len() as u32;
        if self.failures > 0 && self.failures.is_multiple_of(round) {
            let wait_ms = self.backoff_ms / 2 + self.lab.below(self.backoff_ms / 2 + 1);
            self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS.1);
            self.lab.sleep_ms(wait_ms).await;
        }
    }

    // ------------------------------------------------------------------------- calls

    /// Asks a server who leads.
    async fn ask_who_leads(&mut self, server: usize) -> Outcome<Result<Option<usize>, Failed>> {
        let Ok(life) = self.travel(server, 0).await else { return Ok(Err(Failed)) };
        let leader = {
            let state = self.lab.state();
            let replica = state.world.node(node_of(server)).replica();
            replica.and_then(sampan_replica::Replica::leader).map(number_of)
        };
        Ok(self.travel_back(server, life, 0).await.map(|()| leader))
    }

    /// One call: a request, the server's work, the reply.
    async fn call(
        &mut self,
        server: usize,
        class: Class,
        command: &Bytes,
    ) -> Outcome<Result<Reply, Failed>> {
        let Ok(life) = self.travel(server, command.len() as u64).await else {
            return Ok(Err(Failed));
        };
        let Connection { id, last_seq, .. } = self.connection(server, life);
        let request = Request { seq: last_seq, class, stale: false, command: command.clone() };
        let answer = {
            let mut state = self.lab.state();
            let ask = Ask { server, life, connection: id, seq: last_seq };
            let now = state.world.now();
            let answer = state.calls.begin(ask, now, &self.reach);
            let input = Input::Client { connection: id, requests: vec![request] };
            state.world.input(node_of(server), input)?;
            answer
        };
        let Ok(reply) = answer.await else {
            self.close(server)?;
            return Ok(Err(Failed));
        };
        let arrived = self.travel_back(server, life, reply.encoded_bytes() as u64).await;
        Ok(arrived.map(|()| reply))
    }

    /// A request on its way: the life of the server that it reaches.
    async fn travel(&self, server: usize, bytes: u64) -> Result<u64, Failed> {
        let (life, way_us) = {
            let mut state = self.lab.state();
            let life = self.life(&state, server);
            let network = &mut state.world.network;
            network.count_request(FRAME_BYTES + bytes);
            let way_us =
                if life.is_some() { network.request_us() } else { Err(network.no_way_us()) };
            (life, way_us)
        };
        match way_us {
            Err(lost_after_us) => {
                self.lab.sleep_us(lost_after_us).await;
                Err(Failed)
            }
            Ok(us) => {
                self.lab.sleep_us(us).await;
                let now = self.lab.state().world.get(node_of(server)).map(crate::node::Node::lives);
                life.filter(|life| now == Some(*life) && self.lab.is_up(server)).ok_or(Failed)
            }
        }
    }

    /// A reply on its way.
    async fn travel_back(&self, server: usize, life: u64, bytes: u64) -> Result<(), Failed> {
        let way_us = {
            let mut state = self.lab.state();
            if self.life(&state, server) != Some(life) {
                return Err(Failed);
            }
            let way_us = state.world.network.reply_us().ok_or(Failed)?;
            state.world.network.traffic.bytes += FRAME_BYTES + bytes;
            way_us
        };
        self.lab.sleep_us(way_us).await;
        Ok(())
    }

    /// The life of a server that it reaches.
    fn life(&self, state: &State, server: usize) -> Option<u64> {
        let reached = self.reach.borrow()[server] && state.world.network.is_present(server);
        reached.then(|| state.world.node(node_of(server)).lives())
    }

    /// The connection to a life of a server, and the number of the next request on it.
    fn connection(&mut self, server: usize, life: u64) -> Connection {
        let kept = self.connections[server].filter(|connection| connection.life == life);
        let mut connection = kept.unwrap_or_else(|| Connection {
            life,
            id: self.lab.state().new_connection(),
            last_seq: 0,
        });
        connection.last_seq += 1;
        self.connections[server] = Some(connection);
        connection
    }

    /// Gives a connection up: what waits there is dropped, what is under way goes on unanswered.
    fn close(&mut self, server: usize) -> Outcome {
        if let Some(connection) = self.connections[server].take() {
            let mut state = self.lab.state();
            if state.world.node(node_of(server)).lives() == connection.life {
                let closed = Input::ConnectionClosed(connection.id);
                state.world.input(node_of(server), closed)?;
            }
        }
        Ok(())
    }
}
