//! Messages as bytes (`docs/protocol.md`, the peer side): little-endian, no padding.
//!
//! ```text
//! kind u8 | from u64 | to u64 | term u64 | fields of the kind
//! ```
//!
//! Framing and checksums are the transport's. Decoding never panics, checks every length before it
//! allocates, and shares entry and snapshot data with the buffer it reads from.

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::{
    Configuration, Entry, EntryKind, LogIndex, LogPosition, NodeId, SnapshotId, SnapshotMeta, Term,
};

use crate::{Answer, AppendResult, Body, Health, Message};

/// Bytes of an entry beside its payload: term, kind, length. Its index follows from its place.
const ENTRY_HEADER_BYTES: usize = 8 + 1 + 4;

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPEND_ACCEPTED: u8 = 6;
const APPEND_REJECTED: u8 = 7;
const HEARTBEAT: u8 = 8;
const HEARTBEAT_REPLY: u8 = 9;
const INSTALL_SNAPSHOT: u8 = 10;
const INSTALL_SNAPSHOT_REPLY: u8 = 11;
const TIMEOUT_NOW: u8 = 12;
const READ_INDEX: u8 = 13;
const READ_INDEX_REPLY: u8 = 14;
const GREET: u8 = 15;
const GREET_REPLY: u8 = 16;
const SNAPSHOT_HELD: u8 = 17;

impl Message {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_u8(self.kind());
        out.put_u64(self.from.get());
        out.put_u64(self.to.get());
        out.put_u64(self.term.0);
        self.encode_body(out);
    }

    fn kind(&self) -> u8 {
        match self.body {
            Body::PreVote { .. } => PRE_VOTE,
            Body::PreVoteReply { .. } => PRE_VOTE_REPLY,
            Body::Vote { .. } => VOTE,
            Body::VoteReply { .. } => VOTE_REPLY,
            Body::Append { .. } => APPEND,
            Body::AppendReply { result: AppendResult::Accepted { .. }, .. } => APPEND_ACCEPTED,
            Body::AppendReply { result: AppendResult::Rejected { .. }, .. } => APPEND_REJECTED,
            Body::Heartbeat { .. } => HEARTBEAT,
            Body::HeartbeatReply { .. } => HEARTBEAT_REPLY,
            Body::InstallSnapshot { .. } => INSTALL_SNAPSHOT,
            Body::InstallSnapshotReply { .. } => INSTALL_SNAPSHOT_REPLY,
            Body::SnapshotHeld { .. } => SNAPSHOT_HELD,
            Body::TimeoutNow => TIMEOUT_NOW,
            Body::ReadIndex { .. } => READ_INDEX,
            Body::ReadIndexReply { .. } => READ_INDEX_REPLY,
            Body::Greet { .. } => GREET,
            Body::GreetReply { .. } => GREET_REPLY,
        }
    }

    fn encode_body(&self, out: &mut impl Writer) {
        match &self.body {
            Body::PreVote { last } => put_position(out, *last),
            Body::PreVoteReply { asked, answer } => {
                out.put_u64(asked.0);
                out.put_u8(answer.as_byte());
            }
            Body::Vote { last, transfer } => {
                put_position(out, *last);
                out.put_bool(*transfer);
            }
            Body::VoteReply { granted } => out.put_bool(*granted),
            Body::Append { sequence, previous, commit, entries } => {
                put_numbers(out, &[*sequence, commit.0]);
                put_position(out, *previous);
                put_entries(out, entries);
            }
            Body::AppendReply { sequence, recovering, health, result } => {
                out.put_u64(*sequence);
                put_state(out, *recovering, *health);
                match *result {
                    AppendResult::Accepted { matched } => out.put_u64(matched.0),
                    AppendResult::Rejected { previous, hint } => {
                        out.put_u64(previous.0);
                        put_position(out, hint);
                    }
                }
            }
            Body::Heartbeat { sequence, commit, matched, read } => {
                put_numbers(out, &[*sequence, commit.0, *read]);
                put_position(out, *matched);
            }
            Body::HeartbeatReply { sequence, recovering, health, read, received, matched } => {
                put_state(out, *recovering, *health);
                put_numbers(out, &[*sequence, *read, received.0, matched.0]);
            }
            Body::InstallSnapshot { sequence, meta, offset, data } => {
                put_numbers(out, &[*sequence, *offset]);
                put_meta(out, meta);
                out.put_shared(data);
            }
            Body::InstallSnapshotReply { sequence, id, next_offset, matched } => {
                put_numbers(out, &[*sequence, id.0, *next_offset, matched.0]);
            }
            Body::SnapshotHeld { sequence, id, maker, meta } => {
                put_numbers(out, &[*sequence, id.0, maker.get()]);
                put_meta(out, meta);
            }
            Body::TimeoutNow => {}
            Body::ReadIndex { nonce, sequence } => put_numbers(out, &[*nonce, *sequence]),
            Body::ReadIndexReply { nonce, sequence, index, last } => {
                put_numbers(out, &[*nonce, *sequence, index.0, last.0]);
            }
            Body::Greet { nonce } => out.put_u64(*nonce),
            Body::GreetReply { nonce, holds } => {
                out.put_u64(*nonce);
                out.put_bool(*holds);
            }
        }
    }

    /// Reads one message, which must be all there is.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let from = NodeId::decode(&mut reader)?;
        let to = NodeId::decode(&mut reader)?;
        let term = Term(reader.u64()?);
        let body = decode_body(kind, &mut reader, bytes)?;
        reader.finish()?;
        Ok(Self { from, to, term, body })
    }
}

fn decode_body(kind: u8, r: &mut Reader<'_>, bytes: &Bytes) -> Result<Body, DecodeError> {
    Ok(match kind {
        PRE_VOTE => Body::PreVote { last: position(r)? },
        PRE_VOTE_REPLY => Body::PreVoteReply { asked: Term(r.u64()?), answer: answer(r)? },
        VOTE => Body::Vote { last: position(r)?, transfer: r.bool()? },
        VOTE_REPLY => Body::VoteReply { granted: r.bool()? },
        APPEND => {
            let (sequence, commit) = (r.u64()?, LogIndex(r.u64()?));
            let previous = position(r)?;
            let entries = entries(r, previous.index, bytes)?;
            Body::Append { sequence, previous, commit, entries }
        }
        APPEND_ACCEPTED | APPEND_REJECTED => {
            let sequence = r.u64()?;
            let (recovering, health) = state(r)?;
            let index = LogIndex(r.u64()?);
            let result = if kind == APPEND_ACCEPTED {
                AppendResult::Accepted { matched: index }
            } else {
                AppendResult::Rejected { previous: index, hint: position(r)? }
            };
            Body::AppendReply { sequence, recovering, health, result }
        }
        HEARTBEAT => {
            let (sequence, commit, read) = (r.u64()?, LogIndex(r.u64()?), r.u64()?);
            Body::Heartbeat { sequence, commit, matched: position(r)?, read }
        }
        HEARTBEAT_REPLY => {
            let (recovering, health) = state(r)?;
            let (sequence, read) = (r.u64()?, r.u64()?);
            let (received, matched) = (LogIndex(r.u64()?), LogIndex(r.u64()?));
            Body::HeartbeatReply { sequence, recovering, health, read, received, matched }
        }
        INSTALL_SNAPSHOT => {
            let (sequence, offset) = (r.u64()?, r.u64()?);
            let meta = meta(r)?;
            let data = bytes.slice_ref(r.bytes(usize::MAX)?);
            Body::InstallSnapshot { sequence, meta, offset, data }
        }
        INSTALL_SNAPSHOT_REPLY => {
            let (sequence, id, next_offset) = (r.u64()?, SnapshotId(r.u64()?), r.u64()?);
            let matched = LogIndex(r.u64()?);
            Body::InstallSnapshotReply { sequence, id, next_offset, matched }
        }
        SNAPSHOT_HELD => {
            let (sequence, id, maker) = (r.u64()?, SnapshotId(r.u64()?), NodeId::decode(r)?);
            Body::SnapshotHeld { sequence, id, maker, meta: meta(r)? }
        }
        TIMEOUT_NOW => Body::TimeoutNow,
        READ_INDEX => Body::ReadIndex { nonce: r.u64()?, sequence: r.u64()? },
        READ_INDEX_REPLY => {
            let (nonce, sequence) = (r.u64()?, r.u64()?);
            let (index, last) = (LogIndex(r.u64()?), LogIndex(r.u64()?));
            Body::ReadIndexReply { nonce, sequence, index, last }
        }
        GREET => Body::Greet { nonce: r.u64()? },
        GREET_REPLY => Body::GreetReply { nonce: r.u64()?, holds: r.bool()? },
        _ => return Err(DecodeError::Invalid("message kind")),
    })
}

fn put_numbers(out: &mut impl Writer, numbers: &[u64]) {
    for &number in numbers {
        out.put_u64(number);
    }
}

/// What a node says of itself with its answers: one byte, zero if all is well.
fn put_state(out: &mut impl Writer, recovering: bool, health: Health) {
    out.put_u8(u8::from(recovering) | health.as_byte() << 1);
}

fn put_position(out: &mut impl Writer, position: LogPosition) {
    put_numbers(out, &[position.term.0, position.index.0]);
}

fn put_entries(out: &mut impl Writer, entries: &[Entry]) {
    out.put_u32(entries.len() as u32);
    for entry in entries {
        out.put_u64(entry.term.0);
        out.put_u8(entry.kind as u8);
        out.put_shared(&entry.data);
    }
}

fn put_meta(out: &mut impl Writer, meta: &SnapshotMeta) {
    put_position(out, meta.position);
    put_numbers(out, &[meta.id.0, meta.size_bytes]);
    meta.configuration.encode(out);
}

fn state(reader: &mut Reader<'_>) -> Result<(bool, Health), DecodeError> {
    let byte = reader.u8()?;
    let health = Health::from_byte(byte >> 1).ok_or(DecodeError::Invalid("health"))?;
    Ok((byte & 1 == 1, health))
}

fn answer(reader: &mut Reader<'_>) -> Result<Answer, DecodeError> {
    Answer::from_byte(reader.u8()?).ok_or(DecodeError::Invalid("answer"))
}

fn position(reader: &mut Reader<'_>) -> Result<LogPosition, DecodeError> {
    Ok(LogPosition { term: Term(reader.u64()?), index: LogIndex(reader.u64()?) })
}

fn entries(
    reader: &mut Reader<'_>,
    previous: LogIndex,
    bytes: &Bytes,
) -> Result<Vec<Entry>, DecodeError> {
    let count = reader.u32()? as usize;
    // No more than the bytes can hold, so that a bare number allocates nothing.
    if count > reader.remaining().len() / ENTRY_HEADER_BYTES {
        return Err(DecodeError::Truncated);
    }
    let end = previous.0.checked_add(count as u64).ok_or(DecodeError::Invalid("log index"))?;
    let mut entries = Vec::with_capacity(count);
    for index in previous.0 + 1..=end {
        let term = Term(reader.u64()?);
        let kind = EntryKind::from_byte(reader.u8()?).ok_or(DecodeError::Invalid("entry kind"))?;
        let data = bytes.slice_ref(reader.bytes(usize::MAX)?);
        entries.push(Entry { term, index: LogIndex(index), kind, data });
    }
    Ok(entries)
}

fn meta(reader: &mut Reader<'_>) -> Result<SnapshotMeta, DecodeError> {
    let position = position(reader)?;
    let (id, size_bytes) = (SnapshotId(reader.u64()?), reader.u64()?);
    let configuration = Configuration::decode(reader)?;
    Ok(SnapshotMeta { position, configuration, id, size_bytes })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
