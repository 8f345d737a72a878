//! The helpers of the course's Raft tester: who leads, what is committed, `Start`, `one`, `wait`.

use bytes::Bytes;
use sampan_base::{EntryKind, Term};
use sampan_replica::{Input, Request};
use sampan_storage::snapshot::{COMPLETE, SnapshotReader};

use crate::disk::Disk;

use super::applied::{command, commands_of, encode};
use super::lab::{Failure, Lab, Outcome, State, ensure, fail, node_of};
use super::network::number_of;

/// The tester's idea of an election timeout, in milliseconds.
pub(crate) const E_MS: u64 = 1_000;

/// Where a server that leads has put a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Started {
    /// Its index among the commands.
    pub(crate) index: u64,
    /// The term of the server.
    pub(crate) term: Term,
}

/// The end of a wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// Enough servers applied this command.
    Applied(Bytes),
    /// Some server has a higher term than the one named.
    MovedOn,
}

impl State {
    /// Looks at what every server has applied.
    fn look(&mut self) -> Outcome {
        // A server may be ahead of what was seen of the others: look again when they were.
        loop {
            let (reached, mut all_seen) = (self.applied.len(), true);
            for node in self.world.nodes() {
                if let Some(replica) = node.replica() {
                    let server = node.id().get() as usize - 1;
                    all_seen &= self.applied.look(server, node.lives(), replica)?;
                }
            }
            if all_seen || self.applied.len() == reached {
                return Ok(());
            }
        }
    }

    /// How many commands a leader has, committed or not, the ones in its inbox included.
    fn commands_of_leader(&self, server: usize) -> Outcome<u64> {
        let node = self.world.node(node_of(server));
        let Some(replica) = node.replica() else { return fail("a leader runs") };
        let raft = replica.raft();
        let mut count = self.applied.reached(server);
        for entry in raft.entries(raft.applied().next(), raft.last_index().next()) {
            if entry.kind == EntryKind::Command {
                count += commands_of(&entry)?.len() as u64;
            }
        }
        let in_inbox = node.inbox.iter().map(|input| match input {
            Input::Client { requests, .. } => requests.len() as u64,
            _ => 0,
        });
        Ok(count + in_inbox.sum::<u64>())
    }
}

impl Lab {
    /// Term and leadership of a server that runs: the course's `GetState`.
    pub(crate) fn state_of(&self, server: usize) -> Option<(Term, bool)> {
        let state = self.state();
        let raft = state.world.get(node_of(server))?.replica()?.raft();
        Some((raft.term(), raft.is_leader()))
    }

    /// A server that was told to lead the highest term. Waits for one; two in one term fail.
    pub(crate) async fn leader(&self) -> Outcome<usize> {
        for _ in 0..10 {
            self.sleep_ms(450 + self.below(100)).await;
            let mut leaders: Vec<(Term, usize)> = Vec::new();
            for server in self.servers().filter(|&server| self.is_connected(server)) {
                if let Some((term, true)) = self.state_of(server) {
                    ensure(leaders.iter().all(|leader| leader.0 != term), || {
                        format!("term {term} has two leaders")
                    })?;
                    leaders.push((term, server));
                }
            }
            if let Some(&(_, server)) = leaders.iter().max() {
                return Ok(server);
            }
        }
        fail("no leader within 5 s")
    }

    /// The term that all connected servers are in.
    pub(crate) fn terms(&self) -> Outcome<Term> {
        let mut found = None;
        for server in self.servers().filter(|&server| self.is_connected(server)) {
            let Some((term, _)) = self.state_of(server) else { continue };
            ensure(*found.get_or_insert(term) == term, || "servers disagree on the term".into())?;
        }
        found.map_or_else(|| fail("nobody is connected"), Ok)
    }

    /// Fails if a connected server leads.
    pub(crate) fn no_leader(&self) -> Outcome {
        for server in self.servers().filter(|&server| self.is_connected(server)) {
            let leads = self.state_of(server).is_some_and(|(_, leads)| leads);
            ensure(!leads, || format!("server {server} leads without a majority"))?;
        }
        Ok(())
    }

    /// Hands a command to this server, and to no other: `None` unless it leads. The connection that
    /// it came by is closed at once, so that it is never handed on.
    pub(crate) fn propose(&self, server: usize, value: &str) -> Outcome<Option<Started>> {
        if !self.state_of(server).is_some_and(|(_, leads)| leads) {
            return Ok(None);
        }
        let mut state = self.state();
        state.look()?;
        let index = state.commands_of_leader(server)? + 1;
        let (class, encoded) = encode(&[b"SET", b"x", value.as_bytes()]);
        let connection = state.new_connection();
        let request = Request { seq: 1, class, stale: false, command: encoded };
        let id = node_of(server);
        let raft = state.world.node(id).replica().map(|replica| replica.raft().term());
        let term = raft.unwrap_or_default();
        state.world.input(id, Input::Client { connection, requests: vec![request] })?;
        state.world.input(id, Input::ConnectionClosed(connection))?;
        Ok(Some(Started { index, term }))
    }

    /// Looks at what every server has applied.
    pub(crate) fn look(&self) -> Outcome {
        self.state().look()
    }

    /// How many servers have applied a command at this index, and which one.
    pub(crate) fn committed(&self, index: u64) -> Outcome<(usize, Option<Bytes>)> {
        let mut state = self.state();
        state.look()?;
        Ok((state.applied.holders(index), state.applied.get(index).cloned()))
    }

    /// Waits until so many servers have applied a command at this index.
    pub(crate) async fn wait(
        &self,
        index: u64,
        servers: usize,
        term: Option<Term>,
    ) -> Outcome<Waited> {
        let mut pause_ms = 10;
        for _ in 0..30 {
            if self.committed(index)?.0 >= servers {
                break;
            }
            self.sleep_ms(pause_ms).await;
            pause_ms = (pause_ms * 2).min(1_000);
            if let Some(term) = term {
                let mut states = self.servers().filter_map(|server| self.state_of(server));
                if states.any(|(other, _)| other > term) {
                    return Ok(Waited::MovedOn);
                }
            }
        }
        match self.committed(index)? {
            (count, Some(command)) if count >= servers => Ok(Waited::Applied(command)),
            (count, _) => fail(format!("{count} servers applied {index}, {servers} must")),
        }
    }

    /// Has a command agreed on by so many servers, and gives its index. Tries every connected
    /// server for up to 10 s; with `retry` a command that came to nothing is tried again.
    pub(crate) async fn one(&self, value: &str, servers: usize, retry: bool) -> Outcome<u64> {
        let expected = command(value.as_bytes());
        let began = self.now();
        let mut server = 0;
        while self.ms_since(began) < 10_000 {
            let mut started = None;
            for _ in self.servers() {
                server = (server + 1) % self.count();
                if self.is_connected(server) {
                    started = self.propose(server, value)?;
                }
                if started.is_some() {
                    break;
                }
            }
            let Some(Started { index, .. }) = started else {
                self.sleep_ms(50).await;
                continue;
            };
            if self.agreed(index, &expected, servers).await? {
                return Ok(index);
            }
            ensure(retry, || format!("no agreement on {value:.40}"))?;
        }
        fail(format!("no agreement on {value:.40} within 10 s"))
    }

    /// Waits up to 2 s for so many servers to apply this command at this index.
    async fn agreed(&self, index: u64, expected: &Bytes, servers: usize) -> Outcome<bool> {
        let began = self.now();
        while self.ms_since(began) < 2_000 {
            let (count, found) = self.committed(index)?;
            if count > 0 && count >= servers && found.as_ref() == Some(expected) {
                return Ok(true);
            }
            self.sleep_ms(20).await;
        }
        Ok(false)
    }

    /// A value that was never used before, as text.
    pub(crate) fn random_value(&self) -> String {
        self.below(1 << 62).to_string()
    }

    /// Requests that servers got from one another.
    pub(crate) fn incoming(&self) -> u64 {
        self.state().world.network.incoming.iter().sum()
    }

    /// The largest log of any server, in bytes of entries and of term and vote.
    pub(crate) fn log_size(&self) -> u64 {
        let state = self.state();
        let sizes = state.world.nodes().filter_map(|node| {
            Some(node.replica()?.raft().live_log_bytes() as u64 + HARD_STATE_BYTES)
        });
        sizes.max().unwrap_or(0)
    }
}

/// Term and vote.
const HARD_STATE_BYTES: u64 = 16;
/// Where a server's snapshots are.
const SNAPSHOTS: &str = "snapshots";

impl Lab {
    /// The largest newest snapshot of any server, in bytes of state; zero if there is none.
    pub(crate) fn snapshot_size(&self) -> Outcome<u64> {
        let mut largest = 0;
        for server in self.servers() {
            let mut state = self.state();
            let disk = state.world.node_mut(node_of(server)).disk_mut();
            let damaged = |why: &dyn std::fmt::Display| Failure(format!("server {server}: {why}"));
            let files = disk.list(SNAPSHOTS).map_err(|error| damaged(&error))?;
            let complete = files.iter().map(|info| &info.file).filter(|f| f.ends_with(COMPLETE));
            // Names sort by index.
            let Some(file) = complete.max() else { continue };
            let snapshot = SnapshotReader::open(disk, file).map_err(|error| damaged(&error))?;
            let mut bytes = 0;
            for number in 0..snapshot.chunk_count() {
                let chunk = snapshot.chunk(disk, number).map_err(|error| damaged(&error))?;
                bytes += chunk.len() as u64;
            }
            largest = largest.max(bytes);
        }
        Ok(largest)
    }

    /// A server that leads; waits for one.
    pub(crate) async fn leader_now(&self) -> Outcome<usize> {
        for _ in 0..100 {
            let leader = self.state().world.leader();
            if let Some(id) = leader {
                return Ok(number_of(id));
            }
            self.sleep_ms(50).await;
        }
        fail("no leader within 5 s")
    }
}
