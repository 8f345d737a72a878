//! The bytes of one inbound connection on their way to being frames.
//!
//! What a frame carries may live as long as the log's memory does, so a frame owns its bytes and no
//! others: a short one is copied out of the buffer that the connection reads into, a long one is
//! read into memory of its own. (A slice of the read buffer would keep all of it: 64 KiB for each
//! entry of a hundred bytes.) What it is not: a socket, or a judge of what a frame says.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use sampan_base::codec::DecodeError;
use sampan_replica::wire::{FRAME_HEADER_BYTES, decode_frame_header};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 128 << 10;
/// A longer frame gets memory of its own.
const COPIED_BYTES_MAX: usize = READ_BYTES / 4;
/// Room made for a long frame that is announced and has not arrived; more is made as it comes.
const ANNOUNCED_BYTES_MAX: usize = 2 << 20;

/// What has arrived and is not handed on.
#[derive(Debug)]
pub(super) struct Frames {
    /// Whole frames, and the beginning of one that is short or of unknown length.
    shared: BytesMut,
    /// A long frame under way, with nothing after it, and its whole length.
    long: Option<(BytesMut, usize)>,
}

impl Frames {
    /// Of a connection that has said nothing.
    pub(super) fn new() -> Self {
        Self { shared: BytesMut::with_capacity(READ_BYTES), long: None }
    }

    /// Has a frame begun that is not whole? To be asked when [`next`](Self::next) has no more.
    pub(super) fn is_amid(&self) -> bool {
        self.long.is_some() || !self.shared.is_empty()
    }

    /// One read; how many bytes came. None: the other side has ended.
    pub(super) async fn read<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<usize> {
        let Some((long, wanted)) = &mut self.long else {
            // What is left of a frame goes to the front again; this allocates nothing.
            self.shared.reserve(READ_BYTES / 2);
            return from.read_buf(&mut self.shared).await;
        };
        let missing = *wanted - long.len();
        long.reserve(missing.min(long.len().max(ANNOUNCED_BYTES_MAX)));
        // Nothing of the frame behind it.
        from.read_buf(&mut (&mut *long).limit(missing)).await
    }

    /// The next frame that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, DecodeError> {
        if let Some((long, wanted)) = self.long.take() {
            if long.len() == wanted {
                return Ok(Some(long.freeze()));
            }
            self.long = Some((long, wanted));
            return Ok(None);
        }
        let Some(header) = decode_frame_header(&self.shared)? else { return Ok(None) };
        let wanted = FRAME_HEADER_BYTES + header.payload_bytes;
        if let Some(frame) = self.shared.get(..wanted) {
            let frame = Bytes::copy_from_slice(frame);
            self.shared.advance(wanted);
            return Ok(Some(frame));
        }
        if wanted > COPIED_BYTES_MAX {
            let mut long = BytesMut::with_capacity(wanted.min(ANNOUNCED_BYTES_MAX));
            long.put(&mut self.shared);
            self.long = Some((long, wanted));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use sampan_replica::wire::FRAME_MAGIC;
    use tokio::io::ReadBuf;

    use super::*;
    use crate::testing::on_loop;

    /// Gives so many bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.1.min(self.0.len()).min(buffer.remaining());
            let (now, rest) = self.0.split_at(count);
            buffer.put_slice(now);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    fn frame(payload_bytes: usize, filler: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        // Magic, length, a checksum that nobody looks at here, cluster, sender, receiver.
        frame.put_u32_le(FRAME_MAGIC);
        frame.put_u64_le(payload_bytes as u64);
        (1..=3).for_each(|id| frame.put_u64_le(id));
        frame.resize(FRAME_HEADER_BYTES + payload_bytes, filler);
        frame
    }

    #[test]
    fn frames_of_all_lengths_come_out_whole_however_they_are_cut() {
        let lengths = [0, 1, 200, READ_BYTES, COPIED_BYTES_MAX - 1, 5, 3 * ANNOUNCED_BYTES_MAX, 7];
        let sent: Vec<Vec<u8>> = (1..).zip(lengths).map(|(i, len)| frame(len, i)).collect();
        let stream = sent.concat();
        for piece_bytes in [1_000, 4_096, READ_BYTES - 1, stream.len()] {
            on_loop(async {
                let mut pieces = Pieces(&stream, piece_bytes);
                let (mut frames, mut received) = (Frames::new(), Vec::new());
                while frames.read(&mut pieces).await.unwrap() > 0 {
                    while let Some(frame) = frames.next().unwrap() {
                        received.push(frame);
                    }
                }
                assert!(received == sent, "in pieces of {piece_bytes}");
            });
        }
    }

    #[test]
    fn frames_that_are_kept_cost_no_more_than_their_bytes() {
        on_loop(async {
            let stream = frame(100, b'x').repeat(1_000);
            let mut pieces = Pieces(&stream, FRAME_HEADER_BYTES + 100);
            let (mut frames, mut kept) = (Frames::new(), Vec::new());
            let buffer = frames.shared.as_ptr_range();
            while frames.read(&mut pieces).await.unwrap() > 0 {
                kept.extend(frames.next().unwrap());
                assert!(frames.shared.capacity() <= READ_BYTES, "the buffer grows");
            }
            assert_eq!(kept.len(), 1_000);
            let begins = buffer.start as usize;
            let is_within =
                |frame: &Bytes| (begins..begins + READ_BYTES).contains(&(frame.as_ptr() as usize));
            assert!(!kept.iter().any(is_within), "a frame keeps the read buffer");
        });
    }

    #[test]
    fn an_announced_length_alone_takes_little_memory() {
        let mut frames = Frames::new();
        let announced = frame(64 << 20, 0);
        frames.shared.extend_from_slice(&announced[..READ_BYTES]);
        assert_eq!(frames.next(), Ok(None));
        let (long, wanted) = frames.long.as_ref().unwrap();
        assert_eq!(*wanted, announced.len());
        assert!(long.capacity() <= 2 * ANNOUNCED_BYTES_MAX);
    }
}
