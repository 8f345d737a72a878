//! Random histories: the state machine against a naive model, against itself with another hash
//! seed, and against itself restored from snapshots, all applying the same entries.

mod common;

use common::model::{Call, Draw, Model, agree};
use common::{Machine, restored, show, snapshot_rest};
use sampan_base::{Rng, WallTime};
use sampan_kv::{BatchBuilder, Class, GROUP_COMMANDS, Kv, Limits, Reply, parse};

const SEEDS: u64 = 150;
const STEPS: u64 = 250;

/// Machines that apply one history.
struct World {
    model: Model,
    machine: Kv,
    /// With other tables.
    other: Kv,
    /// Now and then replaced by what a snapshot of it restores.
    reborn: Kv,
    /// A snapshot of `machine` that is being made, as of another moment.
    snapshot: Option<Snapshot>,
    draw: Draw,
    limits: Limits,
    clock_ms: u64,
    snapshots_checked: u64,
}

struct Snapshot {
    bytes: Vec<u8>,
    model: Model,
    /// The entries since it was begun.
    entries: Vec<bytes::Bytes>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let limits = Limits {
            sessions_max: 2 + rng.below(4) as usize,
            reclaim_per_batch_max: *rng.pick(&[1, 1, 2, 100]),
            ..Limits::tiny()
        };
        let shards = Limits { shards: 1 << rng.below(5), ..limits };
        let draw = Draw {
            keys: *rng.pick(&[3, 10, 60]),
            flush_one_in: *rng.pick(&[20, 500]),
            sequence_max: *rng.pick(&[4, 12]),
            quantum_ms: *rng.pick(&[1, 50]),
            rng: rng.fork(),
        };
        Self {
            model: Model::new(limits),
            machine: Kv::new(limits, rng.next_u64()),
            other: Kv::new(shards, rng.next_u64()),
            reborn: Kv::new(limits, rng.next_u64()),
            snapshot: None,
            draw,
            limits,
            clock_ms: 1_000_000,
            snapshots_checked: 0,
        }
    }

    fn step(&mut self) {
        // The clock mostly goes on, sometimes stands and sometimes goes back.
        match self.draw.rng.below(8) {
            0 => self.clock_ms -= self.draw.ms(500),
            1..4 => {}
            _ => self.clock_ms += self.draw.ms(300),
        }
        self.apply();
        self.read();
        self.drive_snapshot();
        if self.draw.rng.one_in(40) {
            self.reborn.snapshot_begin();
            let bytes = snapshot_rest(&mut self.reborn, 1_000);
            self.reborn = restored(&bytes, self.limits);
        }
        assert_eq!(self.machine.digest(), self.other.digest());
        assert_eq!(self.machine.digest(), self.reborn.digest());
    }

    fn apply(&mut self) {
        let mut builder = BatchBuilder::new(WallTime::from_unix_ms(self.clock_ms));
        self.model.advance(self.clock_ms);
        let mut expected = Vec::new();
        // Now and then more than are decoded at a time.
        let count_max = if self.draw.rng.one_in(20) { 3 * GROUP_COMMANDS as u64 } else { 5 };
        for _ in 0..self.draw.rng.below(count_max) {
            let call = self.draw.call(&self.model);
            builder.push(&self.encode(&call).1);
            expected.push((self.model.call(&call), call));
        }
        let entry = builder.finish();
        for kv in [&mut self.machine, &mut self.other, &mut self.reborn] {
            let mut replies = Vec::new();
            kv.apply(&entry, &mut replies).expect("a batch");
            assert_eq!(replies.len(), expected.len());
            for (reply, (model, call)) in replies.iter().zip(&expected) {
                check(reply, model, call);
            }
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.entries.push(entry);
        }
    }

    /// Reads, duplicates and figures agree with the model as well.
    fn read(&mut self) {
        for _ in 0..4 {
            let call = self.draw.call(&self.model);
            let (class, encoded) = self.encode(&call);
            self.machine.prefetch([&encoded[..], &encoded[..]].into_iter());
            if class == Class::Write {
                let answer = self.machine.duplicate(&encoded);
                let Call::Once { .. } = call else {
                    assert_eq!(answer, None);
                    continue;
                };
                // What is answered without the log is what the log would have answered.
                if let Some(answer) = answer {
                    check(&answer, &self.model.clone().call(&call), &call);
                }
            } else {
                check(&self.machine.query(&encoded), &self.model.clone().call(&call), &call);
            }
        }
        let stats = self.machine.stats();
        let expires = self.model.keys.values().filter(|(_, expiry)| expiry.is_some()).count();
        assert_eq!(stats.keys, self.model.keys.len() as u64);
        assert_eq!(stats.expires, expires as u64);
        assert_eq!(stats.sessions, self.model.sessions.len() as u64);
    }

    fn drive_snapshot(&mut self) {
        let Some(snapshot) = &mut self.snapshot else {
            if self.draw.rng.one_in(6) {
                self.machine.snapshot_begin();
                assert_eq!(self.machine.snapshot_digest(), Some(self.machine.digest()));
                let model = self.model.clone();
                self.snapshot = Some(Snapshot { bytes: Vec::new(), model, entries: Vec::new() });
            }
            return;
        };
        if self.draw.rng.one_in(60) {
            self.machine.snapshot_cancel();
            self.snapshot = None;
        } else {
            let bytes_max = self.draw.rng.below(200) as usize;
            let digest = self.machine.snapshot_digest();
            if !self.machine.snapshot_next(bytes_max, &mut snapshot.bytes) {
                let snapshot = self.snapshot.take().expect("it is under way");
                self.check_snapshot(&snapshot, digest.expect("it is under way"));
            }
        }
    }

    /// The snapshot holds the state as of its beginning, and the entries since lead from there to
    /// the state of now.
    fn check_snapshot(&mut self, snapshot: &Snapshot, digest: sampan_kv::Digest) {
        assert!(!self.machine.snapshot_active());
        let mut kv = restored(&snapshot.bytes, self.limits);
        assert_eq!(kv.digest(), digest);
        assert_eq!(kv.time().unix_ms, snapshot.model.time_ms);
        assert_eq!(kv.stats().keys, snapshot.model.keys.len() as u64);
        for (key, (value, expiry)) in &snapshot.model.keys {
            let get = self.encode_args(&[b"GET", key]);
            assert_eq!(kv.query(&get), Reply::bulk(value));
            let expiretime = self.encode_args(&[b"PEXPIRETIME", key]);
            assert_eq!(
                kv.query(&expiretime),
                Reply::Int(expiry.map_or(-1, |expiry| expiry as i64))
            );
        }
        for entry in &snapshot.entries {
            kv.apply(entry, &mut Vec::new()).expect("a batch");
        }
        assert_eq!(kv.digest(), self.machine.digest());
        self.snapshots_checked += 1;
    }

    fn encode(&self, call: &Call) -> (Class, Vec<u8>) {
        let mut encoded = Vec::new();
        let class = parse(&call.args(), &self.limits, &mut encoded);
        (class.unwrap_or_else(|error| panic!("{call:?}: {error}")), encoded)
    }

    fn encode_args(&self, args: &[&[u8]]) -> Vec<u8> {
        let mut encoded = Vec::new();
        parse(args, &self.limits, &mut encoded).expect("well formed");
        encoded
    }
}

fn check(reply: &Reply, model: &Reply, call: &Call) {
    assert!(agree(reply, model), "{call:?}: {} but the model says {}", show(reply), show(model));
}

#[test]
fn random_histories_agree_with_the_model_and_between_replicas_and_snapshots() {
    let mut snapshots_checked = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            let at = format!("seed {seed} step {step}");
            let guard = Named(&at);
            world.step();
            std::mem::forget(guard);
        }
        snapshots_checked += world.snapshots_checked;
    }
    assert!(snapshots_checked > SEEDS, "only {snapshots_checked} snapshots were completed");
}

/// Says where a panic happened.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("at {}", self.0);
    }
}

#[test]
fn the_same_entries_give_the_same_digest_on_every_machine() {
    // Recorded once. A difference means that replicas of two versions would not agree.
    let mut machine = Machine::new(Limits::tiny(), 1);
    for line in
        ["SET a 1", "SET b 2 PX 500", "SESSION OPEN", "ONCE 1 1 INCR a", "ONCE 1 3 APPEND b x"]
    {
        machine.line(line);
    }
    machine.advance(100);
    assert_eq!(machine.kv.digest().to_string(), "bffcfee7d31b1d529ee057093382cca4");
}
