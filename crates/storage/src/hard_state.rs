//! The hard state: term and vote, and what else a node must know of itself before it reads its log.
//! Two copies, A and B, each written and synced before anything acts on them (rule S13): one
//! damaged copy is harmless, because the other says the same, or the change was not acted on yet.

use std::sync::Arc;

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};
use sampan_base::{HardState, LogIndex, NodeId, Term, planted};

use crate::page::{self, Magic, PAGE_BYTES, PageFault};
use crate::{Identity, OpenError};

/// The two copies. A is written first.
pub(crate) const FILES: [&str; 2] = ["hard_state.a", "hard_state.b"];

/// What each begins with.
pub(crate) const HARD_STATE_MAGIC: Magic = *b"SAMPHARD";

/// Bytes of the body.
pub(crate) const HARD_STATE_BODY_BYTES: usize = Identity::BYTES + 8 * 7 + 1;

/// All that a copy holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Whose it is.
    pub(crate) identity: Identity,
    /// Counts the writes. The copy with the higher number is the newer one.
    pub(crate) sequence: u64,
    /// How many times the node was opened.
    pub(crate) incarnation: u64,
    /// Term and vote.
    pub(crate) hard_state: HardState,
    /// The durable watermark: this batch of the log, and all before it, were synced.
    pub(crate) synced_batch: u64,
    /// A segment with this number or a higher one is there.
    pub(crate) segment: u64,
    /// Rule S12: neither vote nor count for a quorum before the log is durable through this index.
    pub(crate) non_voting_until: Option<LogIndex>,
    /// Nobody has been heard by this node yet: it may be a new one, or one whose disk was lost.
    pub(crate) newborn: bool,
}

/// Bits of the byte before `non_voting_until`.
const MARKED: u8 = 1;
const NEWBORN: u8 = 2;

impl Record {
    /// A new node's first.
    pub(crate) fn first(identity: Identity) -> Self {
        Self {
            identity,
            sequence: 1,
            incarnation: 0,
            hard_state: HardState::default(),
            synced_batch: 0,
            segment: 1,
            non_voting_until: None,
            newborn: true,
        }
    }

    /// The page of one copy.
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = Vec::with_capacity(HARD_STATE_BODY_BYTES);
        self.identity.encode(&mut body);
        body.put_u64(self.sequence);
        body.put_u64(self.incarnation);
        body.put_u64(self.hard_state.term.0);
        body.put_u64(self.hard_state.vote.map_or(0, NodeId::get));
        body.put_u64(self.synced_batch);
        body.put_u64(self.segment);
        let marked = if self.non_voting_until.is_some() { MARKED } else { 0 };
        body.put_u8(marked | if self.newborn { NEWBORN } else { 0 });
        body.put_u64(self.non_voting_until.map_or(0, |index| index.0));
        page::seal(HARD_STATE_MAGIC, &body).into()
    }

    /// Reads one copy's page.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PageFault> {
        let mut reader = page::unseal(HARD_STATE_MAGIC, bytes)?;
        Self::decode_body(&mut reader).map_err(|_| PageFault::Damaged("a field is impossible"))
    }

    fn decode_body(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let identity = Identity::decode(reader)?;
        let sequence = reader.u64()?;
        let incarnation = reader.u64()?;
        let term = Term(reader.u64()?);
        let vote = NodeId::new(reader.u64()?);
        let synced_batch = reader.u64()?;
        let segment = reader.u64()?;
        let marks = reader.u8()?;
        if marks & !(MARKED | NEWBORN) != 0 {
            return Err(DecodeError::Invalid("marks"));
        }
        let until = LogIndex(reader.u64()?);
        Ok(Self {
            identity,
            sequence,
            incarnation,
            hard_state: HardState { term, vote },
            synced_batch,
            segment,
            non_voting_until: (marks & MARKED != 0).then_some(until),
            newborn: marks & NEWBORN != 0,
        })
    }

    /// Writes and syncs both copies, A first.
    pub(crate) fn write(&self, ops: &mut Vec<DiskOp>) {
        if planted!(HardStatePingPong) {
            return self.write_in_order([FILES[self.sequence as usize % 2]; 2], ops);
        }
        self.write_in_order(FILES, ops);
    }

    /// Writes and syncs both copies in this order.
    pub(crate) fn write_in_order(&self, files: [&str; 2], ops: &mut Vec<DiskOp>) {
        let page = self.encode();
        for file in files {
            let file: FileName = Arc::from(file);
            ops.push(DiskOp::Write { file: file.clone(), offset: 0, bytes: page.clone() });
            if !planted!(HardStateNotSynced) {
                ops.push(DiskOp::Sync { file });
            }
        }
    }
}

/// The hard state as a disk has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Loaded {
    /// The newest valid copy.
    pub(crate) record: Record,
    /// The files in the order in which they are to be written next: the copy that `record` came
    /// from goes last, so that a crash in between leaves it.
    pub(crate) write_order: [&'static str; 2],
    /// The other copy was damaged, missing or older.
    pub(crate) repair: bool,
    /// It was damaged or missing: no crash leaves that.
    pub(crate) damaged: bool,
}

impl Loaded {
    /// The steps that make both copies say this, the one to be repaired first.
    pub(crate) fn replace(
        &self,
        disk: &mut dyn Disk,
        record: &Record,
    ) -> Result<Vec<DiskOp>, DiskError> {
        let mut ops = Vec::new();
        for file in self.write_order {
            if disk.len_bytes(file)?.is_none() {
                ops.push(DiskOp::Create { file: file.into(), zero_bytes: PAGE_BYTES });
            }
        }
        let missing = !ops.is_empty();
        record.write_in_order(self.write_order, &mut ops);
        if missing {
            ops.push(DiskOp::SyncDirectory { directory: "".into() });
        }
        Ok(ops)
    }
}

/// Reads both copies and takes the newest that is valid. A copy that cannot be read counts as
/// damaged, and so does one that is not there: damaged is never absent.
pub(crate) fn load(disk: &mut dyn Disk, identity: Identity) -> Result<Loaded, OpenError> {
    let [a, b] = [load_copy(disk, FILES[0], identity)?, load_copy(disk, FILES[1], identity)?];
    let newest_is_a = match (&a, &b) {
        (Some(a), Some(b)) => a.sequence >= b.sequence,
        (a, _) => a.is_some(),
    };
    let (repair, damaged) = (a != b, a.is_none() || b.is_none());
    let (newest, write_order) = if newest_is_a { (a, [FILES[1], FILES[0]]) } else { (b, FILES) };
    let record = newest.ok_or(OpenError::DamagedHardState("neither copy is what was written"))?;
    Ok(Loaded { record, write_order, repair, damaged })
}

fn load_copy(
    disk: &mut dyn Disk,
    file: &str,
    identity: Identity,
) -> Result<Option<Record>, OpenError> {
    let bytes = match page::read(disk, file, 0, PAGE_BYTES) {
        Ok(bytes) => bytes,
        Err(DiskError::NotFound(_) | DiskError::Io(..)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Record::decode(&bytes) {
        Ok(record) if record.identity == identity => Ok(Some(record)),
        Ok(_) | Err(PageFault::Damaged(_)) => Ok(None),
        Err(PageFault::Version(version)) => {
            Err(OpenError::UnsupportedVersion { file: Arc::from(file), version })
        }
    }
}
