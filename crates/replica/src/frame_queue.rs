//! Frames on their way to one peer: bytes in a row, and between them the payloads that are long,
//! which are shared with the log and not copied.
//!
//! What it is not: a socket, or a judge of what is dropped; its caller gives the limit.

use std::collections::{VecDeque, vec_deque};
use std::iter::Peekable;

use bytes::{Buf as _, Bytes};
use sampan_base::codec::Writer;
use sampan_base::{ClusterId, NodeId};

use crate::wire::{FRAME_HEADER_BYTES, PeerMessage, complete_frame_header, put_frame};

/// Payloads from this length on are shared: below it a copy is cheaper than one more piece to send.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// An empty queue keeps memory for this many bytes.
const KEPT_BYTES: usize = 4 << 20;

/// See the module.
#[derive(Default, Debug)]
pub struct FrameQueue {
    /// All but the shared payloads; the first `sent` bytes are gone.
    copied: Vec<u8>,
    sent: usize,
    /// What is left of them, in order.
    shared: VecDeque<Shared>,
    shared_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    /// How many bytes of `copied` stand before it.
    place: usize,
    bytes: Bytes,
}

impl FrameQueue {
    /// Appends a frame and returns its length, unless the queue would hold more than `bytes_max`
    /// then. A longer frame must leave at some time, too: into an empty queue.
    pub fn push(
        &mut self,
        (cluster, from, to): (ClusterId, NodeId, NodeId),
        message: &PeerMessage,
        bytes_max: usize,
    ) -> Option<usize> {
        let waiting = self.len();
        if waiting >= bytes_max {
            return None;
        }
        let (start, shared_before) = (self.copied.len(), self.shared.len());
        put_frame(cluster, from, to, message, self);
        if waiting > 0 && self.len() > bytes_max {
            self.copied.truncate(start);
            let dropped = self.shared.drain(shared_before..);
            self.shared_bytes -= dropped.map(|shared| shared.bytes.len()).sum::<usize>();
            return None;
        }
        let (header, copied) = self.copied[start..].split_at_mut(FRAME_HEADER_BYTES);
        let shared = self.shared.range(shared_before..).peekable();
        let place = start + FRAME_HEADER_BYTES;
        complete_frame_header(header, Pieces { copied: &*copied, place, shared });
        Some(self.len() - waiting)
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.copied.len() - self.sent + self.shared_bytes
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let copied = self.copied.get(self.sent..).unwrap_or_default();
        Pieces { copied, place: self.sent, shared: self.shared.iter().peekable() }
    }

    /// So many bytes of it are gone. Panics if there are not that many.
    pub fn mark_sent(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let gone = match self.shared.front_mut() {
                Some(Shared { place, bytes }) if *place == self.sent => {
                    let gone = left.min(bytes.len());
                    bytes.advance(gone);
                    self.shared_bytes -= gone;
                    gone
                }
                next => {
                    let end = next.map_or(self.copied.len(), |next| next.place);
                    let gone = left.min(end - self.sent);
                    self.sent += gone;
                    gone
                }
            };
            assert!(gone > 0, "{left} more bytes than there were are gone");
            left -= gone;
            if self.shared.front().is_some_and(|first| first.bytes.is_empty()) {
                self.shared.pop_front();
            }
        }
        self.drop_sent();
    }

    /// Moves what is left to the front once that is less than what is gone.
    fn drop_sent(&mut self) {
        if self.sent == self.copied.len() {
            self.copied.clear();
            self.copied.shrink_to(KEPT_BYTES);
        } else if self.sent > self.copied.len() / 2 {
            self.copied.drain(..self.sent);
        } else {
            return;
        }
        self.shared.iter_mut().for_each(|shared| shared.place -= self.sent);
        self.sent = 0;
    }
}

impl Writer for FrameQueue {
    fn put(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.put_bytes(bytes);
        }
        self.put_u32(u32::try_from(bytes.len()).expect("a length that fits 32 bits"));
        self.shared.push_back(Shared { place: self.copied.len(), bytes: bytes.clone() });
        self.shared_bytes += bytes.len();
    }
}

/// Copied and shared bytes in their order.
#[derive(Clone)]
struct Pieces<'a> {
    copied: &'a [u8],
    /// Where they begin.
    place: usize,
    shared: Peekable<vec_deque::Iter<'a, Shared>>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let before = match self.shared.peek() {
            Some(shared) => shared.place - self.place,
            None => self.copied.len(),
        };
        if before == 0 {
            return self.shared.next().map(|shared| &*shared.bytes);
        }
        let (now, later) = self.copied.split_at(before);
        self.copied = later;
        self.place += before;
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, Term};
    use sampan_raft::{Body, Message};

    use super::*;
    use crate::wire::{decode_frame, decode_frame_header, encode_frame};

    fn way() -> (ClusterId, NodeId, NodeId) {
        (ClusterId(1), NodeId::of(1), NodeId::of(2))
    }

    fn append(lengths: &[usize]) -> PeerMessage {
        let entries = (1..).zip(lengths).map(|(index, &len)| Entry {
            term: Term(3),
            index: LogIndex(index),
            kind: EntryKind::Command,
            data: vec![index as u8; len].into(),
        });
        let (previous, commit) = (LogPosition::default(), LogIndex::ZERO);
        let body = Body::Append { sequence: 1, previous, commit, entries: entries.collect() };
        PeerMessage::Raft(Message { from: NodeId::of(1), to: NodeId::of(2), term: Term(3), body })
    }

    #[test]
    fn frames_come_out_as_they_are_encoded_however_they_are_cut() {
        const LONG: usize = SHARED_BYTES_MIN;
        let lengths: [&[usize]; 5] =
            [&[10], &[LONG], &[LONG, LONG + 1], &[1, 3 * LONG, 2, LONG], &[LONG - 1]];
        let messages: Vec<PeerMessage> = lengths.into_iter().map(append).collect();
        let mut whole = Vec::new();
        let (cluster, from, to) = way();
        for message in &messages {
            encode_frame(cluster, from, to, message, &mut whole);
        }
        for cut in [7, 1_000, LONG, LONG + 99, whole.len()] {
            let mut queue = FrameQueue::default();
            let mut out = Vec::new();
            for message in &messages {
                let before = queue.len();
                let bytes = queue.push(way(), message, usize::MAX).unwrap();
                assert_eq!(queue.len(), before + bytes);
                // Something is always left when the next one comes.
                take(&mut queue, cut.min(bytes / 2), &mut out);
            }
            while !queue.is_empty() {
                take(&mut queue, cut, &mut out);
            }
            assert!(out == whole, "in pieces of {cut}");
            assert_eq!((queue.copied.len(), queue.shared.len(), queue.shared_bytes), (0, 0, 0));
        }
    }

    /// Sends so many bytes.
    fn take(queue: &mut FrameQueue, count: usize, out: &mut Vec<u8>) {
        assert_eq!(queue.pieces().map(<[u8]>::len).sum::<usize>(), queue.len());
        let count = count.min(queue.len());
        out.extend(queue.pieces().flatten().take(count));
        queue.mark_sent(count);
    }

    #[test]
    fn a_long_payload_is_not_copied() {
        let message = append(&[1 << 20]);
        let PeerMessage::Raft(Message { body: Body::Append { entries, .. }, .. }) = &message else {
            unreachable!()
        };
        let mut queue = FrameQueue::default();
        queue.push(way(), &message, usize::MAX).unwrap();
        let long = queue.pieces().nth(1).unwrap();
        assert_eq!(long.as_ptr(), entries[0].data.as_ptr());
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace() {
        let mut queue = FrameQueue::default();
        let long = append(&[1, SHARED_BYTES_MIN, 1]);
        let limit = queue.push(way(), &long, 1).expect("into an empty queue");
        assert_eq!(queue.push(way(), &append(&[]), limit), None);
        assert_eq!(queue.push(way(), &long, limit + 100), None);
        let frame: Vec<u8> = queue.pieces().flatten().copied().collect();
        assert_eq!(frame.len(), queue.len());
        let header = decode_frame_header(&frame).unwrap().unwrap();
        assert_eq!(FRAME_HEADER_BYTES + header.payload_bytes, frame.len());
        assert_eq!(decode_frame(&frame.into()).unwrap().1, long);
    }
}
