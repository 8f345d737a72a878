//! The keys: a sharded hash table of records, the expiry index beside it, and the capture of a
//! snapshot while writes go on.
//!
//! **Shards.** A hash table that doubles moves all its records at once, so there are many small
//! ones ([`Limits::shards`](crate::Limits)). Which shard and place a key has follows from a seed of
//! this node, and no reply, digest or reclamation depends on it.
//!
//! **Capture.** Records carry a generation. To begin a capture is to raise the current generation:
//! from then on a record of an older generation is *as of the beginning and not yet captured*.
//! The walk hands such records out and raises their generation; a write that would change or remove
//! one first saves it whole (the pre-image). Each record is thus captured once, whatever happens
//! between slices, and nothing is copied ahead of time. FLUSHALL sets the whole table aside, and
//! the walk goes on in there.

use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::Sum;
use crate::expiry::ExpiryIndex;
use crate::record::Record;
use crate::snapshot::{put_record, record_frame_bytes};

/// Entries of the expiry index that one step of housekeeping frees.
const FREE_ENTRIES_MAX: usize = 512;
/// Keys that are due are counted so many at a time.
const DUE_COUNTED_MAX: usize = 4_096;

/// Buckets that one slice of a capture looks at, for the case that all of them are empty.
const BUCKETS_PER_SLICE_MAX: usize = 16_384;

/// Tables below this capacity are never shrunk.
const SHRINK_CAPACITY_MIN: usize = 64;

type Shard = HashTable<Record>;

/// A key with its hash, so that it is hashed once per command.
#[derive(Clone, Copy)]
pub(crate) struct Hashed<'a> {
    pub(crate) key: &'a [u8],
    hash: u64,
}

impl Hashed<'_> {
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }
}

/// All keys, expired ones that are not yet reclaimed included.
pub(crate) struct Keyspace {
    shards: Vec<Shard>,
    hash_seed: u64,
    restoring: Restoring,
    len: usize,
    record_bytes: usize,
    expiry: ExpiryIndex,
    sum: Sum,
    /// Given to records that are made or captured from now on.
    generation: u32,
    capture: Option<Capture>,
    garbage: Garbage,
}

/// How a restore goes on, or a part of one.
struct Restoring {
    /// Records that a table is made for.
    room: usize,
    /// The tables that records are put into; there is room for each only where it is at home.
    home: Range<usize>,
    /// Records of other tables, with their hashes. Records that were saved by writes while a
    /// snapshot was taken stand anywhere in it.
    strays: Vec<(u64, Record)>,
}

/// A walk over the records as of its beginning.
struct Capture {
    /// Where the walk stands. Shards before this one are done.
    shard: usize,
    bucket: usize,
    /// Records as of the beginning that writes have since replaced or removed.
    saved: Vec<Record>,
    /// The tables as FLUSHALL found them; then the walk is in here.
    flushed: Option<Vec<Shard>>,
}

/// Flushed tables and indexes, freed step by step.
#[derive(Default)]
struct Garbage {
    shards: Vec<Shard>,
    expiry: Vec<ExpiryIndex>,
}

impl Keyspace {
    pub(crate) fn new(shards: usize, hash_seed: u64) -> Self {
        assert!(shards.is_power_of_two(), "{shards} shards");
        Self {
            shards: empty_shards(shards),
            hash_seed,
            restoring: Restoring { room: 0, home: 0..shards, strays: Vec::new() },
            len: 0,
            record_bytes: 0,
            expiry: ExpiryIndex::default(),
            sum: Sum::default(),
            generation: 0,
            capture: None,
            garbage: Garbage::default(),
        }
    }

    /// Before a restore of this many keys: takes their hash seed. There will be room for all of
    /// them, so that no record moves again.
    pub(crate) fn prepare(&mut self, hash_seed: u64, keys: usize) {
        assert!(self.len == 0, "there are {} keys", self.len);
        self.hash_seed = hash_seed;
        // Shards differ by chance: four standard deviations more than the mean.
        let mean = keys / self.shards.len();
        self.restoring.room = mean + 4 * mean.isqrt();
    }

    pub(crate) const fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    // Reading.

    pub(crate) fn hashed<'a>(&self, key: &'a [u8]) -> Hashed<'a> {
        Hashed { key, hash: hash_of(key, self.hash_seed) }
    }

    /// The record of a key that exists at this log time.
    pub(crate) fn live(&self, key: Hashed<'_>, time_ms: u64) -> Option<&Record> {
        let shard = &self.shards[self.shard_of(key.hash)];
        let record = shard.find(key.hash, |record| record.key() == key.key)?;
        (!record.is_expired(time_ms)).then_some(record)
    }

    /// Is a record of this key in memory?
    pub(crate) fn contains(&self, key: Hashed<'_>) -> bool {
        let shard = &self.shards[self.shard_of(key.hash)];
        shard.find(key.hash, |record| record.key() == key.key).is_some()
    }

    /// Log time has passed, up to this.
    pub(crate) fn pass(&mut self, time_ms: u64) {
        self.expiry.pass(time_ms, DUE_COUNTED_MAX);
    }

    /// How many keys exist at this log time.
    pub(crate) fn live_len(&self, time_ms: u64) -> usize {
        self.len - self.expiry.due(time_ms)
    }

    /// How many of them have a time to live.
    pub(crate) fn expires_len(&self, time_ms: u64) -> usize {
        self.expiry.len() - self.expiry.due(time_ms)
    }

    /// All records in memory, expired or not.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiry.first_ms()
    }

    pub(crate) const fn sum(&self) -> Sum {
        self.sum
    }

    /// Memory of keys and values: what was asked of the allocator, tables included.
    pub(crate) fn memory_bytes(&self) -> usize {
        let tables: usize = self.shards.iter().map(Shard::allocation_size).sum();
        tables + self.record_bytes + self.expiry.len() * ExpiryIndex::ENTRY_BYTES
    }

    // Writing.

    /// Sets a key to a value and an expiry, whatever it was.
    pub(crate) fn put(&mut self, key: Hashed<'_>, value: &[u8], expiry_ms: Option<u64>) {
        let place = self.shard_of(key.hash);
        let shard = &mut self.shards[place];
        let Some(record) = shard.find_mut(key.hash, |record| record.key() == key.key) else {
            let record = Record::new(self.generation, key.key, expiry_ms, value);
            return self.insert(key.hash, record);
        };
        self.expiry.change(key.key, record.expiry_ms(), expiry_ms);
        self.sum.remove(record.content());
        let saver = Saver::of(self.capture.as_mut(), record, self.generation);
        if saver.is_some() || !record.overwrite(self.generation, expiry_ms, value) {
            let new = Record::new(self.generation, key.key, expiry_ms, value);
            self.record_bytes += new.heap_bytes();
            self.record_bytes -= record.heap_bytes();
            Saver::save(saver, std::mem::replace(record, new));
        }
        self.sum.add(record.content());
    }

    /// Sets the expiry of a key that exists: in place if it has one and no capture needs the
    /// record.
    pub(crate) fn set_expiry(&mut self, key: Hashed<'_>, expiry_ms: u64) {
        let place = self.shard_of(key.hash);
        let record = self.shards[place]
            .find_mut(key.hash, |record| record.key() == key.key)
            .expect("only a key that exists is edited");
        let old_ms = record.expiry_ms();
        if old_ms.is_none() || Saver::of(self.capture.as_mut(), record, self.generation).is_some() {
            return self.edit(key, |old, generation| {
                Record::new(generation, old.key(), Some(expiry_ms), old.value())
            });
        }
        self.expiry.change(key.key, old_ms, Some(expiry_ms));
        self.sum.remove(record.content());
        let is_done = record.overwrite_expiry(self.generation, Some(expiry_ms));
        assert!(is_done, "there is room for an expiry");
        self.sum.add(record.content());
    }

    /// Replaces the record of a key that exists by what `edit` makes of it; `edit` is given the
    /// generation to use and leaves the key alone.
    pub(crate) fn edit(&mut self, key: Hashed<'_>, edit: impl FnOnce(&Record, u32) -> Record) {
        let place = self.shard_of(key.hash);
        let shard = &mut self.shards[place];
        let record = shard
            .find_mut(key.hash, |record| record.key() == key.key)
            .expect("only a key that exists is edited");
        let new = edit(record, self.generation);
        self.expiry.change(key.key, record.expiry_ms(), new.expiry_ms());
        self.sum.remove(record.content());
        self.sum.add(new.content());
        self.record_bytes += new.heap_bytes();
        self.record_bytes -= record.heap_bytes();
        let saver = Saver::of(self.capture.as_mut(), record, self.generation);
        Saver::save(saver, std::mem::replace(record, new));
    }

    /// Removes a key. Returns whether it was there, expired or not.
    pub(crate) fn remove(&mut self, key: Hashed<'_>) -> bool {
        let place = self.shard_of(key.hash);
        let found = self.shards[place].find_entry(key.hash, |record| record.key() == key.key);
        let Ok(entry) = found else { return false };
        let (record, _) = entry.remove();
        self.expiry.change(key.key, record.expiry_ms(), None);
        self.sum.remove(record.content());
        self.record_bytes -= record.heap_bytes();
        self.len -= 1;
        let saver = Saver::of(self.capture.as_mut(), &record, self.generation);
        Saver::save(saver, record);
        self.shrink(place);
        true
    }

    /// Adds a record that a snapshot holds. Returns false if its key is there already.
    pub(crate) fn restore(&mut self, record: Record) -> bool {
        let hash = hash_of(record.key(), self.hash_seed);
        let place = self.shard_of(hash);
        if !record.expiry_ms().is_none_or(|expiry_ms| self.expiry.add(record.key(), expiry_ms)) {
            return false;
        }
        self.sum.add(record.content());
        self.record_bytes += record.heap_bytes();
        self.len += 1;
        if !self.restoring.home.contains(&place) {
            self.restoring.strays.push((hash, record));
            return true;
        }
        self.place_restored(hash, record)
    }

    fn place_restored(&mut self, hash: u64, record: Record) -> bool {
        let (hash_seed, place) = (self.hash_seed, self.shard_of(hash));
        let is_same = |other: &Record| other.key() == record.key();
        let rehash = |record: &Record| hash_of(record.key(), hash_seed);
        let shard = &mut self.shards[place];
        if shard.capacity() == 0 {
            *shard = Shard::with_capacity(self.restoring.room);
        }
        let Entry::Vacant(vacant) = shard.entry(hash, is_same, rehash) else { return false };
        vacant.insert(record);
        true
    }

    /// A restore goes on as one of several parts, each for the tables of its share of the records,
    /// in order. What it holds of other parts' tables strays.
    pub(crate) fn keep_to(&mut self, part: usize, parts: usize) {
        let border = |part: usize| self.shards.len() * part / parts;
        let home = border(part)..border(part + 1);
        let hash_seed = self.hash_seed;
        let tables = self.shards.iter_mut().enumerate();
        let abroad = tables.filter(|(place, _)| !home.contains(place));
        let records = abroad.flat_map(|(_, table)| std::mem::take(table));
        let strays = records.map(|record| (hash_of(record.key(), hash_seed), record));
        self.restoring.strays.extend(strays);
        self.restoring.home = home;
    }

    /// Takes in what was restored by the part that follows.
    pub(crate) fn absorb(&mut self, other: Self) {
        let home = other.restoring.home;
        assert!(self.restoring.home.end == home.start, "parts are joined in their order");
        let tables = self.shards.iter_mut().zip(other.shards);
        tables.skip(home.start).take(home.len()).for_each(|(mine, theirs)| *mine = theirs);
        self.restoring.home.end = home.end;
        self.restoring.strays.extend(other.restoring.strays);
        self.expiry.absorb(other.expiry);
        self.sum.merge(other.sum);
        self.record_bytes += other.record_bytes;
        self.len += other.len;
    }

    /// A restore is complete: strays go to their tables. Returns false if a key is there twice.
    pub(crate) fn restored(&mut self) -> bool {
        let strays = std::mem::take(&mut self.restoring.strays);
        let are_new = strays.into_iter().all(|(hash, record)| self.place_restored(hash, record));
        // Records were counted, and are in the sum, when they came.
        let placed: usize = self.shards.iter().map(Shard::len).sum();
        assert!(!are_new || placed == self.len, "{placed} of {} records are in tables", self.len);
        are_new
    }

    /// Removes every key, in time that does not depend on their number. What is left to be freed
    /// are tables that hold keys, so that a pipeline of these commands leaves no more than the keys
    /// were.
    pub(crate) fn flush(&mut self) {
        let count = self.shards.len();
        let mut shards = std::mem::replace(&mut self.shards, empty_shards(count));
        match &mut self.capture {
            Some(capture) if capture.flushed.is_none() => {
                let done = shards.iter_mut().take(capture.shard).map(std::mem::take);
                self.garbage.shards.extend(done);
                capture.flushed = Some(shards);
            }
            _ => self.garbage.shards.extend(shards.into_iter().filter(|shard| !shard.is_empty())),
        }
        if self.expiry.len() > 0 {
            self.garbage.expiry.push(std::mem::take(&mut self.expiry));
        }
        self.len = 0;
        self.record_bytes = 0;
        self.sum = Sum::default();
    }

    /// Removes keys that are expired at this log time from memory, at most `count_max`, in an order
    /// that is the same on every node. Returns how many.
    pub(crate) fn reclaim(&mut self, time_ms: u64, count_max: usize) -> usize {
        for count in 0..count_max {
            let Some(key) = self.expiry.first_due(time_ms) else { return count };
            let removed = self.remove(self.hashed(&key));
            assert!(removed, "a key of the expiry index is in the table");
        }
        count_max
    }

    /// Frees a little of what FLUSHALL left. Returns whether there is more.
    pub(crate) fn free_garbage(&mut self) -> bool {
        let garbage = &mut self.garbage;
        while garbage.shards.pop().is_some_and(|shard| shard.is_empty()) {}
        if let Some(index) = garbage.expiry.last_mut() {
            index.free(FREE_ENTRIES_MAX);
            if index.len() == 0 {
                garbage.expiry.pop();
            }
        }
        !garbage.shards.is_empty() || !garbage.expiry.is_empty()
    }

    /// Takes in what another keyspace holds, to be freed step by step.
    pub(crate) fn discard(&mut self, other: Self) {
        let flushed = other.capture.and_then(|capture| capture.flushed).unwrap_or_default();
        self.garbage.shards.extend(other.shards.into_iter().chain(flushed));
        self.garbage.shards.extend(other.garbage.shards);
        self.garbage.expiry.extend(other.garbage.expiry);
        self.garbage.expiry.push(other.expiry);
    }

    fn insert(&mut self, hash: u64, record: Record) {
        let place = self.shard_of(hash);
        let shard = &mut self.shards[place];
        if shard.len() == shard.capacity() {
            Capture::records_move(self.capture.as_mut(), place);
        }
        self.expiry.change(record.key(), None, record.expiry_ms());
        self.sum.add(record.content());
        self.record_bytes += record.heap_bytes();
        self.len += 1;
        let hash_seed = self.hash_seed;
        shard.insert_unique(hash, record, |record| hash_of(record.key(), hash_seed));
    }

    /// Bits of a hash that the table inside a shard uses neither for its buckets nor for its tags.
    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.shards.len() - 1)
    }

    /// Gives back memory of a table that has become nearly empty.
    fn shrink(&mut self, place: usize) {
        let shard = &mut self.shards[place];
        let capacity = shard.capacity();
        if capacity >= SHRINK_CAPACITY_MIN && shard.len() < capacity / 8 {
            Capture::records_move(self.capture.as_mut(), place);
            let hash_seed = self.hash_seed;
            shard.shrink_to(capacity / 4, |record| hash_of(record.key(), hash_seed));
        }
    }

    // Capturing.

    /// Begins to capture the records as they are now, giving up any capture under way.
    pub(crate) fn capture_begin(&mut self) {
        self.capture_end();
        self.generation = self.generation.checked_add(1).expect("fewer than 2^32 snapshots a run");
        self.capture = Some(Capture { shard: 0, bucket: 0, saved: Vec::new(), flushed: None });
    }

    /// Appends the next records as of the beginning to a slice that begins at `start`, as long as
    /// they fit `length_max` bytes, or one that fits none, and until enough empty places were
    /// looked at. Returns false after the last.
    pub(crate) fn capture_next(
        &mut self,
        start: usize,
        length_max: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(capture) = &mut self.capture else { return false };
        let fits = |out: &[u8], record: &Record| {
            out.len() == start || out.len() + record_frame_bytes(record) <= length_max
        };
        while let Some(record) = capture.saved.pop_if(|record| fits(out, record)) {
            put_record(&record, out);
        }
        if !capture.saved.is_empty() {
            return true;
        }
        let mut looked_at = 0;
        while capture.shard < self.shards.len() {
            let shard = match &mut capture.flushed {
                Some(flushed) => &mut flushed[capture.shard],
                None => &mut self.shards[capture.shard],
            };
            while capture.bucket < shard.num_buckets() {
                if looked_at >= BUCKETS_PER_SLICE_MAX {
                    return true;
                }
                looked_at += 1;
                if let Some(record) = shard.get_bucket_mut(capture.bucket)
                    && record.generation() < self.generation
                {
                    if !fits(out, record) {
                        return true;
                    }
                    record.set_generation(self.generation);
                    put_record(record, out);
                }
                capture.bucket += 1;
            }
            if let Some(flushed) = &mut capture.flushed {
                self.garbage.shards.push(std::mem::take(&mut flushed[capture.shard]));
            }
            capture.shard += 1;
            capture.bucket = 0;
        }
        false
    }

    /// How far the capture is, in shares of tables, and of how many.
    pub(crate) fn capture_progress(&self) -> (usize, usize) {
        const SHARES: usize = 64;
        let Some(capture) = &self.capture else { return (0, 0) };
        let tables = capture.flushed.as_ref().unwrap_or(&self.shards);
        let buckets = tables.get(capture.shard).map_or(0, Shard::num_buckets);
        let shares = (capture.bucket * SHARES).checked_div(buckets).unwrap_or(0);
        (capture.shard * SHARES + shares, self.shards.len() * SHARES)
    }

    /// Ends a capture, complete or not.
    pub(crate) fn capture_end(&mut self) {
        if let Some(capture) = self.capture.take() {
            self.garbage.shards.extend(capture.flushed.unwrap_or_default());
        }
    }

    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }
}

impl Capture {
    /// The records of one table are about to change places: the walk in it starts over, and knows
    /// by their generation those that it has had.
    fn records_move(capture: Option<&mut Self>, shard: usize) {
        if let Some(capture) = capture
            && capture.shard == shard
            && capture.flushed.is_none()
        {
            capture.bucket = 0;
        }
    }
}

/// Where the pre-image of one record goes, if a capture still needs it.
struct Saver<'a>(&'a mut Vec<Record>);

impl<'a> Saver<'a> {
    fn of(capture: Option<&'a mut Capture>, record: &Record, generation: u32) -> Option<Self> {
        let capture = capture.filter(|_| record.generation() < generation)?;
        Some(Self(&mut capture.saved))
    }

    fn save(saver: Option<Self>, record: Record) {
        if let Some(Self(saved)) = saver {
            saved.push(record);
        }
    }
}

fn empty_shards(count: usize) -> Vec<Shard> {
    (0..count).map(|_| Shard::new()).collect()
}

fn hash_of(key: &[u8], hash_seed: u64) -> u64 {
    xxh3_64_with_seed(key, hash_seed)
}
