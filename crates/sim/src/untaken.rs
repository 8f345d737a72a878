//! Clients that do not take their replies for a while, and what the edge of their node does then:
//! as that of the server (`server/client`), it keeps what was answered, tells the replica when that
//! is enough and when there is room again. And an oracle: what a node has taken it answers in time,
//! once the client takes replies, whoever else does not.

use std::collections::VecDeque;
use std::time::Duration;

use sampan_base::NodeId;
use sampan_replica::{ClientReply, ConnectionId, Input};

use crate::checkers::Violation;
use crate::clients::Client;
use crate::faults::Fault;
use crate::queue::SimTime;
use crate::run::{Simulation, Todo};

/// A client that does not take its replies goes on asking: so many commands, in one pipeline or
/// each so many microseconds after the one before it.
const ASKS: (u64, u64) = (6, 24);
const ASKS_EVERY_US_MAX: u64 = 4_000;
/// It takes nothing for this long at most, in microseconds.
const UNTAKEN_US_MAX: u64 = 4_000_000;
/// What it leaves when it takes some it may leave for this long, in microseconds.
const TAKES_EVERY_US: (u64, u64) = (500, 200_000);
/// A node looks for what has waited too long every so often, and a reply is on its way for a while.
const ANSWER_SLACK: Duration = Duration::from_millis(500);

/// The output of one connection, at the edge of its node.
#[derive(Default, Debug)]
pub(crate) struct Output {
    /// The client takes nothing.
    is_stuck: bool,
    /// What it has not taken.
    untaken: VecDeque<ClientReply>,
    untaken_bytes: usize,
    /// The life of the node that made it: with the process goes what it had to send.
    life: u64,
    /// The replica was told that this is enough.
    is_full: bool,
    /// When the client took replies again last, if it ever did not.
    taken_at: Option<SimTime>,
}

impl Output {
    pub(crate) const fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    fn push(&mut self, reply: ClientReply) {
        self.untaken_bytes += reply.reply.encoded_bytes();
        self.untaken.push_back(reply);
    }

    fn take(&mut self, count: usize) -> Vec<ClientReply> {
        let taken: Vec<ClientReply> = self.untaken.drain(..count).collect();
        self.untaken_bytes -= taken.iter().map(|reply| reply.reply.encoded_bytes()).sum::<usize>();
        taken
    }

    /// The kernel closed the connection: nobody will ever have these.
    fn lose(&mut self) {
        self.untaken.clear();
        (self.untaken_bytes, self.is_full) = (0, false);
    }
}

impl Simulation {
    /// A client stops taking its replies, and goes on asking.
    pub(crate) fn stop_taking(&mut self) -> bool {
        let clients = 0..self.clients.len();
        let able: Vec<usize> = clients.filter(|client| self.can_stop_taking(*client)).collect();
        if able.is_empty() {
            return false;
        }
        let client = *self.rng.pick(&able);
        let Some(connection) = self.clients[client].connection_id() else { return false };
        let lasts = self.draw_us(UNTAKEN_US_MAX);
        let asks = self.rng.between(ASKS.0, ASKS.1);
        let now = self.world.now();
        self.world.trace.line(now, || format!("c{} takes no replies", connection.0));
        self.clients[client].output.is_stuck = true;
        self.after(lasts, Todo::Take { client, connection });
        self.after(0, Todo::Ask { client, connection, left: asks });
        true
    }

    fn can_stop_taking(&self, client: usize) -> bool {
        let client = &self.clients[client];
        let node = client.node().and_then(|node| self.world.get(node));
        let is_served = node.is_some_and(|node| node.replica().is_some() && !node.is_paused());
        is_served && !client.output.is_stuck && !client.is_idle(self.world.now())
    }

    /// One or more commands of a client that does not take its replies: mostly reads, which wait
    /// for nothing but it.
    pub(crate) fn client_asks(
        &mut self,
        client: usize,
        connection: ConnectionId,
        left: u64,
    ) -> Result<(), Violation> {
        let is_there = |c: &Client| c.connection_id() == Some(connection) && c.output.is_stuck;
        let at_once = if self.rng.one_in(2) { left } else { 1 };
        if self.is_draining() || !is_there(&self.clients[client]) {
            return Ok(());
        }
        self.client_pipelines(client, connection, at_once)?;
        if left > at_once {
            let wait = self.rng.below(ASKS_EVERY_US_MAX);
            self.after(wait, Todo::Ask { client, connection, left: left - at_once });
        }
        Ok(())
    }

    /// A node answered on a connection that its client takes nothing from.
    pub(crate) fn keep_reply(
        &mut self,
        node: NodeId,
        client: usize,
        reply: ClientReply,
    ) -> Result<(), Violation> {
        let life = self.world.get(node).map_or(0, crate::node::Node::lives);
        let output = &mut self.clients[client].output;
        if output.life != life {
            output.lose();
            output.life = life;
        }
        output.push(reply);
        self.tell_if_full(client, node)
    }

    /// A client takes what was kept for it, or some of it, or goes away.
    pub(crate) fn client_takes(
        &mut self,
        client: usize,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        let c = &self.clients[client];
        let Some(node) = c.node().filter(|_| c.connection_id() == Some(connection)) else {
            return Ok(());
        };
        if self.rng.one_in(8) {
            self.client_hangs_up(client);
            return Ok(());
        }
        let life = self.world.get(node).filter(|node| node.is_up()).map(crate::node::Node::lives);
        let some = !self.is_healing() && self.rng.one_in(2);
        let output = &mut self.clients[client].output;
        if life != Some(output.life) {
            output.lose();
        }
        let all = output.untaken.len() as u64;
        let count = if some && all > 1 { self.rng.between(1, all - 1) } else { all };
        let taken = output.take(count as usize);
        output.is_stuck = !output.untaken.is_empty();
        output.taken_at = Some(self.world.now());
        if output.is_stuck {
            let wait = self.rng.between(TAKES_EVERY_US.0, TAKES_EVERY_US.1);
            self.after(wait, Todo::Take { client, connection });
        } else {
            let now = self.world.now();
            self.world.trace.line(now, || format!("c{} takes its replies", connection.0));
        }
        for reply in taken {
            self.answer_later(client, reply);
        }
        self.tell_if_full(client, node)
    }

    /// Tells the replica if there are replies enough, or room for more again.
    fn tell_if_full(&mut self, client: usize, node: NodeId) -> Result<(), Violation> {
        let Some(connection) = self.clients[client].connection_id() else { return Ok(()) };
        let output = &mut self.clients[client].output;
        // Not to and fro with every reply.
        let full_from = self.plan.output_pause_bytes.div_ceil(if output.is_full { 2 } else { 1 });
        let is_full = output.untaken_bytes >= full_from;
        let now = self.world.now();
        match (std::mem::replace(&mut output.is_full, is_full), is_full) {
            (false, true) => {
                self.world.trace.line(now, || format!("{node} holds replies of c{}", connection.0));
                self.world.input(node, Input::RepliesHeld(connection))
            }
            (true, false) => {
                self.count_held(node, connection);
                self.world.trace.line(now, || format!("{node} wants replies of c{}", connection.0));
                self.world.input(node, Input::RepliesWanted(connection))
            }
            _ => Ok(()),
        }
    }

    /// Replies that are not taken are felt where reads wait for their client.
    pub(crate) fn count_held(&mut self, node: NodeId, connection: ConnectionId) {
        let replica = self.world.get(node).and_then(crate::node::Node::replica);
        let held = replica.map_or(0, |replica| replica.reads_held(connection));
        self.counts.add(Fault::Untaken, held as u64);
    }

    /// By when a node must have answered a command that it took; none if it owes nothing. Its clock
    /// may be slow, it may have been paused, and its client may not have taken what was there.
    fn owed_by(&self, client: usize, sent_as: (ConnectionId, u64)) -> Option<SimTime> {
        let c = &self.clients[client];
        let (arrived, life) = c.arrival_of(sent_as)?;
        let node = self.world.get(c.node()?)?;
        if node.lives() != life || node.replica().is_none() {
            return None;
        }
        if node.is_paused() || c.output.is_stuck {
            return Some(SimTime::NEVER);
        }
        let since = arrived.max(node.resumed_at).max(c.output.taken_at.unwrap_or(SimTime::ZERO));
        let client_timeout = self.plan.options.client_timeout;
        let may_be_slow = self.plan.faults.has(Fault::ClockDrift);
        let timeout = if may_be_slow { client_timeout * 3 / 2 } else { client_timeout };
        Some(since.plus_us((timeout + ANSWER_SLACK).as_micros() as u64))
    }

    /// A client is out of patience for an answer. One that has not taken its replies waits on for
    /// as long as its node may take, so that it sees whether the answer comes.
    pub(crate) fn waits_on_us(
        &self,
        client: usize,
        sent_as: (ConnectionId, u64),
    ) -> Result<Option<u64>, Violation> {
        let now = self.world.now();
        let Some(by) = self.owed_by(client, sent_as) else { return Ok(None) };
        if by < now {
            let (ConnectionId(connection), seq) = sent_as;
            let node = self.clients[client].node();
            let node = node.map_or_else(String::new, |node| node.to_string());
            let detail = format!("{node} owes c{connection} the answer to #{seq} since {by}");
            return Err(Violation::new("unanswered", detail));
        }
        let output = &self.clients[client].output;
        let waits = output.is_stuck || output.taken_at.is_some();
        let longest_us = self.plan.client_patience_us;
        Ok(waits.then(|| by.us_since(now).saturating_add(1).min(longest_us)))
    }
}
