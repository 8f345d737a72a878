//! The state in a snapshot, at a start: built while the file is checked, which so is read once, and
//! in as many parts at once as the host has processors for. Records stand in the order of the
//! tables that they go to (`sampan_kv`, snapshots), so parts hardly meet and to join them costs
//! little.
//!
//! Where sessions, which stand behind all records, take much of the file, parts are less at home
//! and more is left for the end.
//!
//! What it is not: a thread. Who runs the parts is the host's choice, and what comes out is the
//! same.

use std::ops::Range;

use sampan_base::codec::DecodeError;
use sampan_base::disk::Disk;
use sampan_kv::{Kv, Limits, Restore};
use sampan_storage::snapshot::{SnapshotError, SnapshotReader};
use sampan_storage::{Recovered, SnapshotSink};

use crate::opening::OpenError;
use crate::options::{Options, RunAll, Task};

/// The state in the newest sound snapshot.
pub(crate) struct Restoring {
    limits: Limits,
    parts: usize,
    run_all: RunAll,
    restore: Option<Result<Restore, DecodeError>>,
}

/// Why a part was not restored.
enum Failure {
    /// The file is not what was written, or cannot be read.
    File(SnapshotError),
    /// It is, but does not hold a state, or not one that can be built in these parts.
    State(DecodeError),
}

/// Some chunks of a snapshot, and what they are turned into.
struct Part {
    chunks: Range<usize>,
    restore: Restore,
}

impl Part {
    fn build(&mut self, disk: &mut dyn Disk, reader: &SnapshotReader) -> Result<(), Failure> {
        for number in self.chunks.clone() {
            let payload = reader.chunk(disk, number).map_err(Failure::File)?;
            self.restore.feed(&payload).map_err(Failure::State)?;
        }
        Ok(())
    }
}

impl Restoring {
    pub(crate) const fn new(options: &Options) -> Self {
        let (limits, parts, run_all) = (options.kv, options.restore_parts, options.run_all);
        Self { limits, parts, run_all, restore: None }
    }

    /// The state, or an empty one if there is no snapshot.
    pub(crate) fn finish(self, recovered: &Recovered, hash_seed: u64) -> Result<Kv, OpenError> {
        let Some(stored) = &recovered.snapshot else { return Ok(Kv::new(self.limits, hash_seed)) };
        let restore = self.restore.expect("a sound snapshot was taken in");
        restore.and_then(Restore::finish).map_err(|error| {
            let (file, why) = (stored.file.to_string(), error.to_string());
            OpenError::State { file, why }
        })
    }

    /// The whole file, in so many parts.
    fn build(
        &self,
        disk: &mut dyn Disk,
        reader: &SnapshotReader,
        parts: usize,
    ) -> Result<Restore, Failure> {
        let restore = Restore::new(self.limits, reader.meta().size_bytes);
        let count = reader.chunk_count();
        let mut first = Part { chunks: 0..count.min(1), restore };
        first.build(disk, reader)?;
        let mut parts = split(first.restore, 1..count, parts).map_err(Failure::State)?;
        for built in self.build_all(disk, reader, &mut parts) {
            built?;
        }
        let mut parts: Vec<Restore> = parts.into_iter().map(|part| part.restore).collect();
        while parts.len() > 1 {
            parts = join_pairs(parts).map_err(Failure::State)?;
        }
        Ok(parts.pop().expect("there is one at least"))
    }

    /// At once, if each part can have the disk for itself.
    fn build_all(
        &self,
        disk: &mut dyn Disk,
        reader: &SnapshotReader,
        parts: &mut [Part],
    ) -> Vec<Result<(), Failure>> {
        let disks: Option<Vec<_>> = parts.iter().map(|_| disk.another()).collect();
        let Some(disks) = disks.filter(|_| parts.len() > 1) else {
            return parts.iter_mut().map(|part| part.build(disk, reader)).collect();
        };
        let mut results: Vec<_> = parts.iter().map(|_| Ok(())).collect();
        let work = parts.iter_mut().zip(disks).zip(&mut results);
        let tasks = work.map(|((part, mut disk), result)| -> Task<'_> {
            Box::new(move || *result = part.build(&mut *disk, reader))
        });
        (self.run_all)(tasks.collect());
        results
    }
}

/// Splits what comes after the first chunk.
fn split(first: Restore, chunks: Range<usize>, count: usize) -> Result<Vec<Part>, DecodeError> {
    let count = count.clamp(1, chunks.len().max(1));
    let border = |place: usize| chunks.start + chunks.len() * place / count;
    let restores = first.split(count).ok_or(DecodeError::Truncated)?;
    let part = |(place, restore)| Part { chunks: border(place)..border(place + 1), restore };
    Ok(restores.into_iter().enumerate().map(part).collect())
}

/// Each with the next one: what two parts hold moves once in a round, and rounds are few.
fn join_pairs(parts: Vec<Restore>) -> Result<Vec<Restore>, DecodeError> {
    let mut joined = Vec::with_capacity(parts.len().div_ceil(2));
    let mut parts = parts.into_iter();
    while let Some(mut part) = parts.next() {
        parts.next().map_or(Ok(()), |next| part.join(next))?;
        joined.push(part);
    }
    Ok(joined)
}

impl SnapshotSink for Restoring {
    fn take(&mut self, disk: &mut dyn Disk, reader: &SnapshotReader) -> Result<(), SnapshotError> {
        let mut built = self.build(disk, reader, self.parts);
        if matches!(built, Err(Failure::State(_))) && self.parts > 1 {
            // A state may be cut into chunks anywhere, and then only be read from its beginning on.
            built = self.build(disk, reader, 1);
        }
        self.restore = Some(match built {
            Ok(restore) => Ok(restore),
            Err(Failure::State(error)) => {
                // What comes after may be damaged, and an older snapshot stand in for it.
                reader.check(disk)?;
                Err(error)
            }
            Err(Failure::File(error)) => return Err(error),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sampan_base::disk::{DiskOp, FileName};
    use sampan_base::{
        ClusterId, Configuration, LogIndex, LogPosition, NodeId, SnapshotId, Term, WallTime,
    };
    use sampan_kv::BatchBuilder;
    use sampan_storage::Identity;
    use sampan_storage::snapshot::SnapshotWriter;
    use sampan_storage::testing::MemDisk;

    use super::*;

    fn state() -> Kv {
        let limits = Options::new(NodeId::of(1)).kv;
        let mut kv = Kv::new(limits, 1);
        let mut batch = BatchBuilder::new(WallTime::from_unix_ms(1));
        for key in 0..100 {
            let mut command = Vec::new();
            let arguments = ["SET".to_string(), format!("key-{key}"), "value".into()];
            sampan_kv::parse(&arguments, &limits, &mut command).unwrap();
            batch.push(&command);
        }
        kv.apply(&batch.finish(), &mut Vec::new()).unwrap();
        kv
    }

    /// A snapshot file of the state, in chunks of so many bytes or as the state slices itself.
    fn written(kv: &mut Kv, cut_at: Option<usize>) -> (MemDisk, FileName) {
        kv.snapshot_begin();
        let (mut slices, mut more) = (Vec::new(), true);
        while more {
            let mut slice = Vec::new();
            more = kv.snapshot_next(100, &mut slice);
            slices.push(slice);
        }
        let whole = slices.concat();
        if let Some(cut_at) = cut_at {
            slices = whole.chunks(cut_at).map(<[u8]>::to_vec).collect();
        }
        written_as(&slices, kv)
    }

    fn written_as(chunks: &[Vec<u8>], kv: &Kv) -> (MemDisk, FileName) {
        let maker = Identity { cluster: ClusterId(1), node: NodeId::of(1) };
        let position = LogPosition { term: Term(1), index: LogIndex(1) };
        let members = Configuration::of_voters([NodeId::of(1)]);
        let (mut writer, mut ops) =
            SnapshotWriter::begin(maker, SnapshotId(1), position, &members, None);
        ops.extend(chunks.iter().flat_map(|chunk| writer.chunk(chunk)));
        let (_, file, rest) = writer.finish(&kv.digest().to_bytes());
        let mut disk = MemDisk::new();
        disk.execute(&DiskOp::CreateDirectory { directory: "snapshots".into() }).unwrap();
        disk.execute_all(&ops).unwrap();
        disk.execute_all(&rest).unwrap();
        (disk, file)
    }

    fn in_parts(parts: usize) -> Restoring {
        Restoring::new(&Options { restore_parts: parts, ..Options::new(NodeId::of(1)) })
    }

    fn restored(disk: &mut MemDisk, file: &str, parts: usize) -> Result<Kv, SnapshotError> {
        let mut restoring = in_parts(parts);
        let reader = SnapshotReader::open(disk, file)?;
        restoring.take(disk, &reader)?;
        let restore = restoring.restore.expect("it was taken").expect("it holds a state");
        Ok(restore.finish().expect("it is whole"))
    }

    #[test]
    fn a_state_is_the_same_in_whatever_parts_and_wherever_it_was_cut() {
        let mut kv = state();
        for cut_at in [None, Some(1_000), Some(70), Some(7)] {
            let (mut disk, file) = written(&mut kv, cut_at);
            for parts in [1, 2, 3, 8, 1_000] {
                let same = restored(&mut disk, &file, parts).unwrap();
                assert_eq!(same.digest(), kv.digest(), "{parts} parts, cut at {cut_at:?}");
                let reader = SnapshotReader::open(&mut disk, &file).unwrap();
                let at_once = in_parts(parts).build(&mut disk, &reader, parts);
                assert_eq!(at_once.is_ok(), parts == 1 || cut_at.is_none());
            }
        }
    }

    #[test]
    fn damage_behind_what_is_no_state_is_damage_of_the_file() {
        let mut kv = state();
        let (mut disk, file) = written(&mut kv, None);
        let end = SnapshotReader::open(&mut disk, &file).unwrap().chunk_count() - 1;
        let (mut disk, file) = written_as(&vec![b"no state".to_vec(); end], &kv);
        let taken = |disk: &mut MemDisk| {
            let reader = SnapshotReader::open(disk, &file).unwrap();
            in_parts(3).take(disk, &reader)
        };
        assert_eq!(taken(&mut disk), Ok(()));
        let last = disk.len_bytes(&file).unwrap().unwrap() - 500;
        disk.corrupt(&file, last, |byte| *byte ^= 1);
        assert!(matches!(taken(&mut disk), Err(SnapshotError::Damaged { .. })));
    }

    #[test]
    fn damage_in_any_part_is_damage_of_the_file() {
        let mut kv = state();
        let (mut disk, file) = written(&mut kv, None);
        let len_bytes = disk.len_bytes(&file).unwrap().unwrap();
        for offset in (5_000..len_bytes - 500).step_by(500) {
            let mut damaged = disk.clone();
            damaged.corrupt(&file, offset, |byte| *byte ^= 1);
            let restored = restored(&mut damaged, &file, 4).map(|kv| kv.digest());
            assert!(
                matches!(restored, Err(SnapshotError::Damaged { .. })),
                "{offset}: {restored:?}"
            );
        }
    }
}
