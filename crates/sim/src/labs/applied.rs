//! What each server has applied, as the course's tester sees it: commands, counted from 1.
//!
//! The course's Raft has no entry at the start of a term, and one command an entry. Here a leader
//! opens its term with a no-op and puts the commands of a turn into one entry, so the index of a
//! command is its place among the commands, not among the entries.
//!
//! Every look compares what a server applied with what others applied at the same place, and the
//! state of its key/value store with the last command that it applied. A snapshot that a server
//! installed stands for the commands before it; only the last of them counts as seen, as in the
//! course.

use bytes::Bytes;
use sampan_base::codec::DecodeError;
use sampan_base::{Entry, EntryKind, LogIndex};
use sampan_kv::{BatchReader, Class, Kv, Limits, Reply, parse};
use sampan_raft::Raft;
use sampan_replica::Replica;

use super::lab::{Failure, Outcome, ensure, fail};

/// The one key that the tester's commands set.
const KEY: &str = "x";

/// A command as it is in the log.
pub(crate) fn command(value: &[u8]) -> Bytes {
    encode(&[b"SET", KEY.as_bytes(), value]).1
}

/// A command of a client as servers take it. Panics if it is none.
pub(crate) fn encode(args: &[&[u8]]) -> (Class, Bytes) {
    let mut encoded = Vec::new();
    let class = parse(args, &Limits::default(), &mut encoded);
    (class.expect("labs send commands that exist"), Bytes::from(encoded))
}

/// The commands in an entry.
pub(crate) fn commands_of(entry: &Entry) -> Outcome<Vec<Bytes>> {
    let mut commands = Vec::new();
    if entry.kind == EntryKind::Command {
        let malformed = |error: DecodeError| Failure(format!("entry {}: {error}", entry.index));
        let mut batch = BatchReader::new(&entry.data).map_err(malformed)?;
        while let Some(command) = batch.next_command().map_err(malformed)? {
            commands.push(entry.data.slice_ref(command));
        }
    }
    Ok(commands)
}

/// One server, as far as it was seen.
#[derive(Debug)]
struct Seen {
    /// Its life, as the world counts it: a new one starts from its snapshot.
    life: u64,
    /// It was seen to apply through here.
    cursor: LogIndex,
    /// Which commands it was seen to apply, in any of its lives.
    holds: Vec<bool>,
}

/// What all servers have applied.
#[derive(Debug)]
pub(crate) struct Applied {
    /// What each command was, the first at place 0.
    commands: Vec<Bytes>,
    /// How many commands there are through each log index that anybody applied.
    through: Vec<u64>,
    servers: Vec<Seen>,
}

impl Applied {
    /// Nothing yet.
    pub(crate) fn new(servers: usize) -> Self {
        let none = || Seen { life: 0, cursor: LogIndex::ZERO, holds: Vec::new() };
        Self {
            commands: Vec::new(),
            through: vec![0],
            servers: (0..servers).map(|_| none()).collect(),
        }
    }

    /// How many commands were applied by anybody.
    pub(crate) fn len(&self) -> u64 {
        self.commands.len() as u64
    }

    /// The command at an index, if anybody applied one.
    pub(crate) fn get(&self, index: u64) -> Option<&Bytes> {
        self.commands.get((index as usize).checked_sub(1)?)
    }

    /// How many servers were seen to apply the command at an index.
    pub(crate) fn holders(&self, index: u64) -> usize {
        let place = index as usize - 1;
        self.servers.iter().filter(|seen| seen.holds.get(place) == Some(&true)).count()
    }

    /// The index of the last command that a server was seen to apply.
    pub(crate) fn reached(&self, server: usize) -> u64 {
        self.through[self.servers[server].cursor.0 as usize]
    }

    /// Looks at a server. False if it is ahead of all that was seen: look at the others first.
    pub(crate) fn look(&mut self, server: usize, life: u64, replica: &Replica) -> Outcome<bool> {
        let raft = replica.raft();
        let seen = &mut self.servers[server];
        if seen.life != life {
            seen.life = life;
            seen.cursor = LogIndex::ZERO;
        }
        if seen.cursor == raft.applied() {
            return Ok(true);
        }
        ensure(seen.cursor < raft.applied(), || format!("server {server} went back"))?;
        let start = raft.first_index().prev();
        if seen.cursor < start && !self.jump(server, start) {
            return Ok(false);
        }
        self.follow(server, raft)?;
        self.check_state(server, replica.kv())?;
        Ok(true)
    }

    /// A server installed a snapshot, or started from one.
    fn jump(&mut self, server: usize, to: LogIndex) -> bool {
        let Some(&count) = self.through.get(to.0 as usize) else { return false };
        self.servers[server].cursor = to;
        if count > 0 {
            self.hold(server, count);
        }
        true
    }

    fn hold(&mut self, server: usize, index: u64) {
        let holds = &mut self.servers[server].holds;
        let place = index as usize - 1;
        if holds.len() <= place {
            holds.resize(place + 1, false);
        }
        holds[place] = true;
    }

    fn follow(&mut self, server: usize, raft: &Raft) -> Outcome {
        let from = self.servers[server].cursor.next();
        for entry in raft.entries(from, raft.applied().next()) {
            let mut index = self.through[entry.index.0 as usize - 1];
            for command in commands_of(&entry)? {
                index += 1;
                self.apply(server, index, command)?;
            }
            match self.through.get(entry.index.0 as usize) {
                Some(&count) => ensure(count == index, || {
                    format!("server {server} has {index} commands through {}", entry.index)
                })?,
                None => self.through.push(index),
            }
            self.servers[server].cursor = entry.index;
        }
        let (cursor, applied) = (self.servers[server].cursor, raft.applied());
        ensure(cursor == applied, || format!("server {server} has no entry after {cursor}"))
    }

    fn apply(&mut self, server: usize, index: u64, command: Bytes) -> Outcome {
        match self.get(index) {
            Some(other) if *other != command => {
                return fail(format!(
                    "server {server} applied {command:?} at {index}, others {other:?}"
                ));
            }
            Some(_) => {}
            None => self.commands.push(command),
        }
        self.hold(server, index);
        Ok(())
    }

    /// The last command set the key.
    fn check_state(&self, server: usize, kv: &Kv) -> Outcome {
        let index = self.reached(server);
        let Some(last) = self.get(index) else { return Ok(()) };
        let (_, get) = encode(&[b"GET", KEY.as_bytes()]);
        let held = match kv.query(&get) {
            Reply::Bulk(value) => command(&value),
            other => {
                return fail(format!("server {server} holds {other:?} after {index} commands"));
            }
        };
        ensure(held == *last, || {
            format!("server {server} holds {held:?} after {last:?}, the command at {index}")
        })
    }
}
