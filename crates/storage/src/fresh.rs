//! The fresh segment that an opening may begin: the cut behind which nothing counts any more, and
//! the batches that are written again because the disk may not have them (rule S8).

use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{LogIndex, LogPosition};

use crate::batch::{self, Batch, Change, Link};
use crate::page::PAGE_BYTES;
use crate::replay::Replayed;
use crate::segment::{FIRST_BATCH_OFFSET, SegmentHeader};

/// The last segment is copied forward as a whole if its batches fill at most one part in so many of
/// it: then restarts do not pile up segments that are nearly empty.
const COPY_WHOLE_SHARE: u64 = 4;

/// A fresh segment that opening begins, and the batches that go into it.
pub(crate) struct FreshSegment<'a> {
    pub(crate) first: Link,
    pub(crate) serves_from: LogIndex,
    copies: &'a [Batch],
    pub(crate) reset: Option<LogPosition>,
}

impl<'a> FreshSegment<'a> {
    /// A fresh segment is needed to cut off what is torn, given up or superseded; and to write
    /// again whatever is not known to have been synced, for the disk may not have it (rule S8).
    /// `last` is the last segment read; the log starts anew after `start_anew_after`, if given.
    pub(crate) fn plan(
        log: &'a Replayed,
        last: Option<&SegmentHeader>,
        start_anew_after: Option<LogPosition>,
        faulty: bool,
    ) -> Option<Self> {
        let unproven = log.tail.partition_point(|batch| batch.link.sequence <= log.synced_batch);
        let unproven = &log.tail[unproven..];
        if let Some(position) = start_anew_after {
            let first = unproven.first().map_or(log.next, |batch| batch.link);
            let serves_from = position.index;
            return Some(Self { first, serves_from, copies: &[], reset: Some(position) });
        }
        if !log.torn && !faulty && unproven.is_empty() {
            return None;
        }
        let len_bytes = last.map_or(0, |last| last.len_bytes);
        let used_bytes: u64 = log.tail.iter().map(|batch| batch.bytes_on_disk).sum();
        let nearly_empty = used_bytes <= len_bytes / COPY_WHOLE_SHARE;
        let copies = if nearly_empty { &log.tail[..] } else { unproven };
        let first = copies.first().map_or(log.next, |batch| batch.link);
        let serves_from = match (copies.first(), last) {
            // It takes the place of the last segment.
            (Some(batch), Some(last)) if batch.link == last.first => last.serves_from,
            (Some(batch), _) => batch.reset.map_or(batch.first_index, |position| position.index),
            (None, _) if log.next_index == LogIndex(1) => LogIndex::ZERO,
            (None, _) => log.next_index,
        };
        Some(Self { first, serves_from, copies, reset: None })
    }

    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copies.iter().map(|batch| batch.bytes_on_disk).sum()
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.copied_bytes() + if self.reset.is_some() { PAGE_BYTES } else { 0 }
    }

    /// Writes the batches; what comes next, and where.
    pub(crate) fn write(
        &self,
        header: &SegmentHeader,
        file: &FileName,
        ops: &mut Vec<DiskOp>,
    ) -> (Link, u64) {
        let copies = self.copies.iter().map(|batch| Change {
            reset: batch.reset,
            first_index: batch.first_index,
            entries: &batch.entries,
        });
        let reset = self.reset.map(|position| Change {
            reset: Some(position),
            first_index: position.index.next(),
            entries: &[],
        });
        let mut link = self.first;
        let mut offset = FIRST_BATCH_OFFSET;
        for change in copies.chain(reset) {
            let (bytes, chain) = batch::encode(header.salt(), offset, link, &change);
            let len_bytes = bytes.len() as u64;
            ops.push(DiskOp::Write { file: file.clone(), offset, bytes });
            offset += len_bytes;
            link = Link { sequence: link.sequence + 1, chain };
        }
        (link, offset)
    }
}
