//! What nodes say to each other, and the frame it travels in (`docs/protocol.md`, "Peers").
//!
//! A frame is self-contained: it names its cluster, sender and receiver and carries a checksum over
//! all of it, so a lost, late, doubled, reordered or misdirected frame is harmless. How frames get
//! from one node to another is the server's matter.

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer, crc32, crc32_with};
use sampan_base::{ClusterId, Entry, EntryKind, LogIndex, NodeId, SnapshotId, Term};
use sampan_kv::{Class, Reply};
use sampan_raft::Message;

use crate::input::ConnectionId;

/// The first four bytes of every frame.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"SPN1");
/// Magic, length, checksum, cluster, from, to.
pub const FRAME_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 8 + 8;
/// The largest payload a frame may announce. The largest one there is holds the reply to a
/// forwarded read (`sampan_kv::Limits::reply_bytes_max`); the server's configuration checks that
/// all fit.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 96 << 20;
/// Requests in one forward, at most.
pub const FORWARD_REQUESTS_MAX: usize = 16_384;
/// Bytes of entries in one answer to a node that repairs its log, unless the first alone is longer.
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// Indices that one answer is about, at most.
pub const HELD_INDICES_MAX: u64 = 4_096;
/// A forwarded command, at most.
pub const FORWARDED_BYTES_MAX: usize = 16 << 20;

// The first byte of each kind of message.
const RAFT: u8 = 1;
const FORWARD: u8 = 2;
const FORWARD_REPLY: u8 = 3;
const SNAPSHOT_WANTED: u8 = 4;
const SNAPSHOT_PART: u8 = 5;
const SNAPSHOT_MISSING: u8 = 6;
const WANTED: u8 = 7;
const HELD: u8 = 8;
const SNAPSHOT_DAMAGED: u8 = 9;

/// What stands before the bytes of a forwarded command: id, connection, class, length.
const REQUEST_HEADER_BYTES: usize = 8 + 8 + 1 + 4;
/// What stands before the bytes of an entry: index, term, kind, length.
const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1 + 4;
/// What an outcome takes at least: id, kind.
const OUTCOME_BYTES_MIN: usize = 8 + 1;

/// A message between nodes.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerMessage {
    /// Consensus.
    Raft(Message),
    /// Commands that a follower hands to the leader.
    Forward(Forward),
    /// Their answers.
    ForwardReply(ForwardReply),
    /// A leader has another node's snapshot sent to a peer by who made it.
    SnapshotWanted(SnapshotWanted),
    /// That part.
    SnapshotPart(SnapshotPart),
    /// It cannot be sent.
    SnapshotMissing(SnapshotMissing),
    /// What its maker sent of a snapshot is damaged.
    SnapshotDamaged(SnapshotDamaged),
    /// A node repairs its log and lacks entries.
    Wanted(Wanted),
    /// What another one holds of them.
    Held(Held),
}

/// See [`PeerMessage::SnapshotWanted`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotWanted {
    /// For whom.
    pub to: NodeId,
    /// Which snapshot.
    pub id: SnapshotId,
    /// From where in its file.
    pub offset: u64,
    /// How many bytes at most.
    pub len_max: u64,
}

/// See [`PeerMessage::SnapshotPart`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPart {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Where it belongs in the file.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// See [`PeerMessage::SnapshotMissing`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMissing {
    /// For whom it was wanted.
    pub to: NodeId,
    /// Which snapshot.
    pub id: SnapshotId,
}

/// See [`PeerMessage::SnapshotDamaged`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotDamaged {
    /// Which snapshot.
    pub id: SnapshotId,
}

/// A node whose log is damaged asks for the entries it lost. Whoever is asked answers, whatever its
/// role: the one who asks can tell the right ones ([`sampan_storage::Repair`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The first one.
    pub first: LogIndex,
    /// The last one.
    pub last: LogIndex,
}

/// All that the sender holds of the entries from `first` through `through`: there may be gaps, or
/// nothing at all.
#[derive(Clone, PartialEq, Debug)]
pub struct Held {
    /// The first that was asked for.
    pub first: LogIndex,
    /// The last that this answer is about. What is after it is to be asked for again.
    pub through: LogIndex,
    /// In order.
    pub entries: Vec<Entry>,
}

impl Wanted {
    /// The last index that one answer may be about.
    pub(crate) fn through_max(self) -> LogIndex {
        self.last.min(LogIndex(self.first.0.saturating_add(HELD_INDICES_MAX - 1)))
    }

    /// The answer of a node that holds these entries, all it has from `first` through
    /// [`Wanted::through_max`], in order.
    pub(crate) fn answer(self, held: impl Iterator<Item = Entry>) -> Held {
        let mut answer =
            Held { first: self.first, through: self.through_max(), entries: Vec::new() };
        let mut bytes = 0;
        for entry in held {
            bytes += entry.size_bytes();
            if bytes > HELD_BYTES_MAX && !answer.entries.is_empty() {
                answer.through = entry.index.prev();
                break;
            }
            answer.entries.push(entry);
        }
        answer
    }
}

/// Commands of the sender's clients for the leader of `term`.
#[derive(Clone, PartialEq, Debug)]
pub struct Forward {
    /// Tells the sender's lives apart, and rises from one to the next: how often it had started,
    /// and in the low half a number by chance, for one that lost its disk counts from one again.
    pub incarnation: u64,
    /// Whom the sender takes for the leader is the leader of this term, and only of this one.
    pub term: Term,
    /// The frame's number in this life of the sender, from 1.
    pub frame_seq: u64,
    /// The commands, each connection's in its order.
    pub requests: Vec<ForwardedRequest>,
}

/// One of them.
#[derive(Clone, PartialEq, Debug)]
pub struct ForwardedRequest {
    /// Names this attempt: unique in this life of the sender, rising in the order of sending.
    pub id: u64,
    /// The connection at the sender, whose order the leader keeps.
    pub connection: ConnectionId,
    /// Does it go through the log?
    pub class: Class,
    /// The command.
    pub command: Bytes,
}

/// What became of forwarded commands.
#[derive(Clone, PartialEq, Debug)]
pub struct ForwardReply {
    /// The life of the receiver that this answers.
    pub incarnation: u64,
    /// The answers, in any order.
    pub outcomes: Vec<ForwardOutcome>,
}

/// What became of one.
#[derive(Clone, PartialEq, Debug)]
pub struct ForwardOutcome {
    /// Which attempt.
    pub id: u64,
    /// The answer, or that it was certainly not appended and may be sent elsewhere.
    pub outcome: Outcome,
}

/// See [`ForwardOutcome`].
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Answered, and the log position that decided it.
    Answered(Reply, LogIndex),
    /// Certainly not appended.
    Refused,
}

impl ForwardOutcome {
    /// About how many bytes it takes in a frame.
    pub fn size_bytes(&self) -> usize {
        match &self.outcome {
            Outcome::Refused => 9,
            Outcome::Answered(reply, _) => 17 + reply.encoded_bytes(),
        }
    }
}

impl PeerMessage {
    /// Appends the message's bytes.
    pub fn encode(&self, out: &mut impl Writer) {
        match self {
            Self::Raft(message) => {
                out.put_u8(RAFT);
                message.encode(out);
            }
            Self::Forward(forward) => {
                out.put_u8(FORWARD);
                encode_forward(forward, out);
            }
            Self::ForwardReply(reply) => {
                out.put_u8(FORWARD_REPLY);
                encode_forward_reply(reply, out);
            }
            Self::SnapshotWanted(SnapshotWanted { to, id, offset, len_max }) => {
                out.put_u8(SNAPSHOT_WANTED);
                for number in [to.get(), id.0, *offset, *len_max] {
                    out.put_u64(number);
                }
            }
            Self::SnapshotPart(SnapshotPart { id, offset, data }) => {
                out.put_u8(SNAPSHOT_PART);
                out.put_u64(id.0);
                out.put_u64(*offset);
                out.put_shared(data);
            }
            Self::SnapshotMissing(SnapshotMissing { to, id }) => {
                out.put_u8(SNAPSHOT_MISSING);
                out.put_u64(to.get());
                out.put_u64(id.0);
            }
            Self::SnapshotDamaged(SnapshotDamaged { id }) => {
                out.put_u8(SNAPSHOT_DAMAGED);
                out.put_u64(id.0);
            }
            Self::Wanted(Wanted { first, last }) => {
                out.put_u8(WANTED);
                out.put_u64(first.0);
                out.put_u64(last.0);
            }
            Self::Held(held) => {
                out.put_u8(HELD);
                encode_held(held, out);
            }
        }
    }

    /// Reads what [`PeerMessage::encode`] wrote; payloads are slices of `bytes`, not copies.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        match bytes.first() {
            Some(&RAFT) => Message::decode(&bytes.slice(1..)).map(Self::Raft),
            Some(&FORWARD) => decode_forward(bytes).map(Self::Forward),
            Some(&FORWARD_REPLY) => decode_forward_reply(bytes).map(Self::ForwardReply),
            Some(
                &kind @ (SNAPSHOT_WANTED | SNAPSHOT_PART | SNAPSHOT_MISSING | SNAPSHOT_DAMAGED),
            ) => decode_snapshot_message(kind, bytes),
            Some(&WANTED) => decode_wanted(bytes).map(Self::Wanted),
            Some(&HELD) => decode_held(bytes).map(Self::Held),
            Some(_) => Err(DecodeError::Invalid("message kind")),
            None => Err(DecodeError::Truncated),
        }
    }
}

fn encode_forward(forward: &Forward, out: &mut impl Writer) {
    out.put_u64(forward.incarnation);
    out.put_u64(forward.term.0);
    out.put_u64(forward.frame_seq);
    out.put_u32(forward.requests.len() as u32);
    for request in &forward.requests {
        out.put_u64(request.id);
        out.put_u64(request.connection.0);
        out.put_u8(class_to_byte(request.class));
        out.put_shared(&request.command);
    }
}

fn decode_forward(bytes: &Bytes) -> Result<Forward, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.take(1)?;
    let incarnation = reader.u64()?;
    let term = Term(reader.u64()?);
    let frame_seq = reader.u64()?;
    let count = reader.u32()? as usize;
    if count > FORWARD_REQUESTS_MAX {
        return Err(DecodeError::Invalid("request count"));
    }
    let mut requests =
        Vec::with_capacity(count.min(reader.remaining().len() / REQUEST_HEADER_BYTES));
    for _ in 0..count {
        requests.push(ForwardedRequest {
            id: reader.u64()?,
            connection: ConnectionId(reader.u64()?),
            class: class_from_byte(reader.u8()?)?,
            command: bytes.slice_ref(reader.bytes(FORWARDED_BYTES_MAX)?),
        });
    }
    reader.finish()?;
    Ok(Forward { incarnation, term, frame_seq, requests })
}

const fn class_to_byte(class: Class) -> u8 {
    class as u8
}

fn class_from_byte(byte: u8) -> Result<Class, DecodeError> {
    [Class::Read, Class::TimedRead, Class::Write]
        .into_iter()
        .find(|&class| class_to_byte(class) == byte)
        .ok_or(DecodeError::Invalid("class"))
}

fn encode_forward_reply(reply: &ForwardReply, out: &mut impl Writer) {
    out.put_u64(reply.incarnation);
    out.put_u32(reply.outcomes.len() as u32);
    for outcome in &reply.outcomes {
        out.put_u64(outcome.id);
        match &outcome.outcome {
            Outcome::Refused => out.put_u8(0),
            Outcome::Answered(reply, decided_at) => {
                out.put_u8(1);
                out.put_u64(decided_at.0);
                reply.encode(out);
            }
        }
    }
}

fn decode_forward_reply(bytes: &Bytes) -> Result<ForwardReply, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.take(1)?;
    let incarnation = reader.u64()?;
    let count = reader.u32()? as usize;
    if count > FORWARD_REQUESTS_MAX {
        return Err(DecodeError::Invalid("outcome count"));
    }
    let mut outcomes = Vec::with_capacity(count.min(reader.remaining().len() / OUTCOME_BYTES_MIN));
    for _ in 0..count {
        let id = reader.u64()?;
        let outcome = match reader.u8()? {
            0 => Outcome::Refused,
            1 => {
                let decided_at = LogIndex(reader.u64()?);
                Outcome::Answered(Reply::decode(&mut reader)?, decided_at)
            }
            _ => return Err(DecodeError::Invalid("outcome")),
        };
        outcomes.push(ForwardOutcome { id, outcome });
    }
    reader.finish()?;
    Ok(ForwardReply { incarnation, outcomes })
}

fn decode_snapshot_message(kind: u8, bytes: &Bytes) -> Result<PeerMessage, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.take(1)?;
    let message = match kind {
        SNAPSHOT_WANTED => PeerMessage::SnapshotWanted(SnapshotWanted {
            to: NodeId::decode(&mut reader)?,
            id: SnapshotId(reader.u64()?),
            offset: reader.u64()?,
            len_max: reader.u64()?,
        }),
        SNAPSHOT_PART => PeerMessage::SnapshotPart(SnapshotPart {
            id: SnapshotId(reader.u64()?),
            offset: reader.u64()?,
            data: bytes.slice_ref(reader.bytes(usize::MAX)?),
        }),
        SNAPSHOT_MISSING => PeerMessage::SnapshotMissing(SnapshotMissing {
            to: NodeId::decode(&mut reader)?,
            id: SnapshotId(reader.u64()?),
        }),
        _ => PeerMessage::SnapshotDamaged(SnapshotDamaged { id: SnapshotId(reader.u64()?) }),
    };
    reader.finish()?;
    Ok(message)
}

fn decode_wanted(bytes: &Bytes) -> Result<Wanted, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.take(1)?;
    let wanted = Wanted { first: LogIndex(reader.u64()?), last: LogIndex(reader.u64()?) };
    reader.finish()?;
    let is_range = wanted.first <= wanted.last && wanted.last < LogIndex::MAX;
    is_range.then_some(wanted).ok_or(DecodeError::Invalid("range of entries"))
}

fn encode_held(held: &Held, out: &mut impl Writer) {
    out.put_u64(held.first.0);
    out.put_u64(held.through.0);
    out.put_u32(held.entries.len() as u32);
    for entry in &held.entries {
        out.put_u64(entry.index.0);
        out.put_u64(entry.term.0);
        out.put_u8(entry.kind as u8);
        out.put_shared(&entry.data);
    }
}

fn decode_held(bytes: &Bytes) -> Result<Held, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.take(1)?;
    let (first, through) = (LogIndex(reader.u64()?), LogIndex(reader.u64()?));
    let count = reader.u32()? as usize;
    // No more than the bytes can hold, so that a bare number allocates nothing.
    if count > reader.remaining().len() / ENTRY_HEADER_BYTES {
        return Err(DecodeError::Truncated);
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (index, term) = (LogIndex(reader.u64()?), Term(reader.u64()?));
        let kind = EntryKind::from_byte(reader.u8()?).ok_or(DecodeError::Invalid("entry kind"))?;
        let data = bytes.slice_ref(reader.bytes(usize::MAX)?);
        entries.push(Entry { term, index, kind, data });
    }
    reader.finish()?;
    Ok(Held { first, through, entries })
}

/// What a frame says besides its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes of payload that follow the header.
    pub payload_bytes: usize,
    /// Checksum over the rest of the header and the payload.
    pub checksum: u32,
    /// The cluster of the sender.
    pub cluster: ClusterId,
    /// The sender.
    pub from: NodeId,
    /// The receiver it is meant for.
    pub to: NodeId,
}

/// Appends a whole frame.
pub fn encode_frame(
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
    message: &PeerMessage,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    put_frame(cluster, from, to, message, out);
    let (header, payload) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    complete_frame_header(header, std::iter::once(&*payload));
}

/// Appends a frame whose length and checksum are still to be told.
pub(crate) fn put_frame(
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
    message: &PeerMessage,
    out: &mut impl Writer,
) {
    out.put_u32(FRAME_MAGIC);
    out.put_u64(0);
    out.put_u64(cluster.0);
    out.put_u64(from.get());
    out.put_u64(to.get());
    message.encode(out);
}

/// Tells them, by the parts of the payload.
pub(crate) fn complete_frame_header<'a>(
    header: &mut [u8],
    payload: impl Iterator<Item = &'a [u8]> + Clone,
) {
    let payload_bytes: usize = payload.clone().map(<[u8]>::len).sum();
    assert!(payload_bytes <= FRAME_PAYLOAD_BYTES_MAX, "a frame of {payload_bytes} bytes");
    let len = (payload_bytes as u32).to_le_bytes();
    let checksum = crc32_with(&[&len, &header[12..]], payload).to_le_bytes();
    header[4..8].copy_from_slice(&len);
    header[8..12].copy_from_slice(&checksum);
}

/// Reads the header at the start of `bytes`; `Ok(None)` while it is not whole.
pub fn decode_frame_header(bytes: &[u8]) -> Result<Option<FrameHeader>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if bytes.len() >= 4 && reader.clone().u32()? != FRAME_MAGIC {
        return Err(DecodeError::Invalid("frame magic"));
    }
    if bytes.len() < FRAME_HEADER_BYTES {
        return Ok(None);
    }
    reader.u32()?;
    let payload_bytes = reader.u32()? as usize;
    if payload_bytes > FRAME_PAYLOAD_BYTES_MAX {
        return Err(DecodeError::Invalid("frame length"));
    }
    let checksum = reader.u32()?;
    let cluster = ClusterId(reader.u64()?);
    let from = NodeId::decode(&mut reader)?;
    let to = NodeId::decode(&mut reader)?;
    Ok(Some(FrameHeader { payload_bytes, checksum, cluster, from, to }))
}

/// Reads one whole frame, header and payload, whose length is known; checks its checksum.
pub fn decode_frame(frame: &Bytes) -> Result<(FrameHeader, PeerMessage), DecodeError> {
    let header = decode_frame_header(frame)?.ok_or(DecodeError::Truncated)?;
    if frame.len() != FRAME_HEADER_BYTES + header.payload_bytes {
        return Err(DecodeError::Invalid("frame length"));
    }
    if crc32(&[&frame[4..8], &frame[12..]]) != header.checksum {
        return Err(DecodeError::Invalid("frame checksum"));
    }
    let message = PeerMessage::decode(&frame.slice(FRAME_HEADER_BYTES..))?;
    if let PeerMessage::Raft(raft) = &message
        && (raft.from != header.from || raft.to != header.to)
    {
        return Err(DecodeError::Invalid("frame addresses"));
    }
    Ok((header, message))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
