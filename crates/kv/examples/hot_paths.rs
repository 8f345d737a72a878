//! Fixed work on the hot paths of the state machine, in nanoseconds an operation:
//!
//! ```text
//! cargo run --release -p sampan-kv --example hot_paths [KEYS]
//! ```
//!
//! Keys are 16 bytes, values 64, access is uniformly random, a batch holds 64 commands. Times are
//! of the processor, not of the clock; other work still costs caches, so compare within one run,
//! best with those of the bare table, which are what the machine can do.

#![allow(clippy::disallowed_methods)] // reads its arguments; the crate itself never does
#![allow(clippy::print_stdout)]

use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashTable;
use rustix::time::{ClockId, clock_gettime};

use sampan_base::{Rng, WallTime};
use sampan_kv::{BatchBuilder, Kv, Limits, Reply, Restore, parse};

/// That of the server: what freeing costs is its work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_COMMANDS: u64 = 64;
const VALUE: [u8; 64] = [b'v'; 64];
const SLICE_BYTES: usize = 256 << 10;

struct Bench {
    kv: Kv,
    limits: Limits,
    keys: u64,
    rng: Rng,
    replies: Vec<Reply>,
    /// The longest that one batch or slice took.
    longest: Duration,
}

fn main() {
    let keys = std::env::args().nth(1).map_or(1_000_000, |arg| arg.parse().expect("a number"));
    let limits = Limits::default();
    let mut bench = Bench {
        kv: Kv::new(limits, 42),
        limits,
        keys,
        rng: Rng::seeded(1),
        replies: Vec::new(),
        longest: Duration::ZERO,
    };
    println!("{keys} keys, {BATCH_COMMANDS} commands a batch");
    let before = resident_bytes();
    bench.insert();
    let after = resident_bytes();
    let estimate = bench.kv.stats().bytes_estimate;
    println!(
        "memory: {} B a key resident, {} B asked for",
        after.saturating_sub(before) / keys,
        estimate / keys
    );
    bench.bare_table();
    bench.parse_sets();
    bench.writes("set", |key| format!("SET {key}"), true);
    bench.once();
    bench.writes("set, other length", |key| format!("APPEND {key} x"), false);
    bench.writes("incr", |key| format!("INCR n{key}"), false);
    bench.reads();
    let snapshot = bench.snapshot();
    bench.set_under_snapshot();
    bench.restore(&snapshot);
    bench.expire();
    bench.flush();
}

fn args(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

impl Bench {
    fn key(&mut self) -> String {
        format!("{:016}", self.rng.below(self.keys))
    }

    fn encode(&self, line: &str, value: bool) -> Vec<u8> {
        let mut args = args(line);
        if value {
            args.push(&VALUE);
        }
        let mut encoded = Vec::new();
        parse(&args, &self.limits, &mut encoded).expect(line);
        encoded
    }

    /// Batches made beforehand, so that applying alone is measured.
    fn batches(&mut self, count: u64, make: impl Fn(&mut Self, u64) -> Vec<u8>) -> Vec<Bytes> {
        let mut batches = Vec::new();
        for first in (0..count).step_by(BATCH_COMMANDS as usize) {
            let mut batch = BatchBuilder::new(WallTime::from_unix_ms(1));
            for place in first..(first + BATCH_COMMANDS).min(count) {
                let encoded = make(self, place);
                batch.push(&encoded);
            }
            batches.push(batch.finish());
        }
        batches
    }

    fn apply(&mut self, batch: &[u8]) {
        self.replies.clear();
        let start = Cpu::now();
        self.kv.apply(batch, &mut self.replies).expect("a batch");
        self.longest = self.longest.max(start.elapsed());
    }

    fn report(&mut self, what: &str, count: u64, took: Duration) {
        let each = took.as_nanos() as f64 / count as f64;
        println!("{what:24} {each:9.1} ns   longest step {:?}", self.longest);
        self.longest = Duration::ZERO;
    }

    /// What a bare hash table of boxed records takes: one get, one set that allocates a copy.
    fn bare_table(&mut self) {
        const COUNT: u64 = 1 << 20;
        let hash = |key: &[u8]| xxhash_rust::xxh3::xxh3_64(key);
        let record = |key: &str| [key.as_bytes(), &VALUE].concat().into_boxed_slice();
        let mut table: HashTable<Box<[u8]>> = HashTable::new();
        for key in 0..self.keys {
            let record = record(&format!("{key:016}"));
            table.insert_unique(hash(&record[..16]), record, |record| hash(&record[..16]));
        }
        let keys: Vec<String> = (0..COUNT).map(|_| self.key()).collect();
        let (mut bytes, start) = (0, Cpu::now());
        for key in &keys {
            let found = table.find(hash(key.as_bytes()), |record| &record[..16] == key.as_bytes());
            bytes += found.map_or(0, |record| Bytes::copy_from_slice(&record[16..]).len());
        }
        self.report("bare table: get", COUNT, start.elapsed());
        assert_eq!(bytes as u64, 64 * COUNT);
        let start = Cpu::now();
        for key in &keys {
            let hash = hash(key.as_bytes());
            let found = table.find_mut(hash, |record| &record[..16] == key.as_bytes());
            *found.expect("it is there") = record(key);
        }
        self.report("bare table: set", COUNT, start.elapsed());
    }

    fn insert(&mut self) {
        let mut took = Duration::ZERO;
        let mut first = 0;
        while first < self.keys {
            let last = (first + (1 << 16)).min(self.keys);
            let batches = self.batches(last - first, |bench, place| {
                bench.encode(&format!("SET {:016}", first + place), true)
            });
            let start = Cpu::now();
            for batch in &batches {
                self.apply(batch);
            }
            took += start.elapsed();
            first = last;
        }
        self.report("set, new key", self.keys, took);
    }

    fn parse_sets(&mut self) {
        let keys: Vec<String> = (0..1_000).map(|_| self.key()).collect();
        let mut out = Vec::with_capacity(1 << 20);
        let start = Cpu::now();
        for _ in 0..1_000 {
            out.clear();
            for key in &keys {
                let args = [b"SET", key.as_bytes(), &VALUE];
                parse(&args, &self.limits, &mut out).expect("a SET");
            }
        }
        self.report("parse a set", 1_000_000, start.elapsed());
    }

    fn writes(&mut self, what: &str, line: impl Fn(&str) -> String, value: bool) {
        const COUNT: u64 = 1 << 20;
        let batches = self.batches(COUNT, |bench, _| {
            let key = bench.key();
            bench.encode(&line(&key), value)
        });
        let start = Cpu::now();
        for batch in &batches {
            self.apply(batch);
        }
        self.report(what, COUNT, start.elapsed());
    }

    fn reads(&mut self) {
        const COUNT: u64 = 1 << 20;
        for (what, command) in [("get", "GET"), ("exists", "EXISTS")] {
            let reads: Vec<Vec<u8>> = (0..COUNT)
                .map(|_| {
                    let key = self.key();
                    self.encode(&format!("{command} {key}"), false)
                })
                .collect();
            for group_reads in [1, 16] {
                let mut found = 0;
                let start = Cpu::now();
                for group in reads.chunks(group_reads) {
                    if group_reads > 1 {
                        self.kv.prefetch(group.iter().map(Vec::as_slice));
                    }
                    let replies = group.iter().map(|read| self.kv.query(read));
                    found += replies.filter(|reply| *reply != Reply::Nil).count() as u64;
                }
                let took = start.elapsed();
                assert_eq!(found, COUNT);
                self.report(&format!("{what}, {group_reads} at a time"), COUNT, took);
            }
        }
    }

    fn once(&mut self) {
        const SESSIONS: u64 = 256;
        const COUNT: u64 = 1 << 18;
        let opens = self.batches(SESSIONS, |bench, _| bench.encode("SESSION OPEN", false));
        for batch in &opens {
            self.apply(batch);
        }
        let batches = self.batches(COUNT, |bench, place| {
            let (session, sequence) = (1 + place % SESSIONS, 2 + place / SESSIONS);
            let (key, ack) = (bench.key(), sequence - 1);
            bench.encode(&format!("ONCE {session} {sequence} ACK {ack} SET {key}"), true)
        });
        let start = Cpu::now();
        for batch in &batches {
            self.apply(batch);
        }
        self.report("set in once", COUNT, start.elapsed());
    }

    fn snapshot(&mut self) -> Vec<Vec<u8>> {
        let begin = Cpu::now();
        self.kv.snapshot_begin();
        println!("snapshot begin took {:?}", begin.elapsed());
        let (mut slices, mut took, mut more) = (Vec::new(), Duration::ZERO, true);
        let mut slice = Vec::with_capacity(2 * SLICE_BYTES);
        while more {
            slice.clear();
            let start = Cpu::now();
            more = self.kv.snapshot_next(SLICE_BYTES, &mut slice);
            self.longest = self.longest.max(start.elapsed());
            took += start.elapsed();
            slices.push(slice.clone());
        }
        self.report("snapshot, a key", self.keys, took);
        slices
    }

    fn set_under_snapshot(&mut self) {
        self.kv.snapshot_begin();
        self.writes("set, walk stands still", |key| format!("SET {key}"), true);
        self.kv.snapshot_cancel();
    }

    fn restore(&mut self, slices: &[Vec<u8>]) {
        let start = Cpu::now();
        let mut restore =
            Restore::new(self.limits, slices.iter().map(|slice| slice.len() as u64).sum());
        for slice in slices {
            restore.feed(slice).expect("a snapshot");
        }
        let kv = restore.finish().expect("a snapshot");
        self.report("restore, a key", kv.stats().keys, start.elapsed());
    }

    fn expire(&mut self) {
        const COUNT: u64 = 1 << 17;
        self.writes("pexpire", |key| format!("PEXPIRE {key} 1000"), false);
        let tick = BatchBuilder::new(WallTime::from_unix_ms(5_000)).finish();
        let before = self.kv.stats().expired_total;
        let start = Cpu::now();
        for _ in 0..COUNT / self.limits.reclaim_per_batch_max as u64 {
            self.apply(&tick);
        }
        let took = start.elapsed();
        let expired = self.kv.stats().expired_total - before;
        self.report("reclaim an expired key", expired.max(1), took);
    }

    fn flush(&mut self) {
        let flush = self.batches(1, |bench, _| bench.encode("FLUSHALL", false));
        self.apply(&flush[0]);
        self.report("flushall", 1, self.longest);
        let start = Cpu::now();
        let mut steps = 0;
        loop {
            let step = Cpu::now();
            let more = self.kv.maintain();
            self.longest = self.longest.max(step.elapsed());
            steps += 1;
            if !more {
                break;
            }
        }
        self.report("free, a step", steps, start.elapsed());
    }
}

/// Processor time of this thread.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
