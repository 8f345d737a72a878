//! The first bytes of a connection between nodes: who is there, and is it who was meant
//! (`docs/protocol.md`, "Peers").
//!
//! The dialler sends a [`Hello`], the other side answers with a [`Welcome`], and then only the
//! dialler sends: frames of [`sampan_replica::wire`]. Both messages are
//!
//! ```text
//! magic 4 | version 2 | length 2 | body (length) | crc32 4 over everything before it
//! ```
//!
//! little-endian. Other versions keep magic, version and length where they are, so that they can be
//! refused by name.

use std::fmt;

use sampan_base::codec::{DecodeError, Reader, Writer, crc32};
use sampan_base::{ClusterId, NodeId};
use sampan_replica::Stream;
use sampan_replica::wire::FRAME_MAGIC;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::config::{HOST_BYTES_MAX, HostPort};

/// The first four bytes of a handshake; no request and no frame starts with them.
pub(crate) const HANDSHAKE_MAGIC: [u8; 4] = *b"SPNH";
/// The version of the handshake and of the frames after it.
pub(crate) const PROTOCOL_VERSION: u16 = 2;
/// The longest body of either message: ids, an address, and settings.
const BODY_BYTES_MAX: usize = 64 + HOST_BYTES_MAX + 8 * SETTINGS_MAX;
/// Settings in one message, at most.
const SETTINGS_MAX: usize = 64;

/// What the dialler says of itself and of whom it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: ClusterId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) stream: Stream,
    /// Where clients reach the dialler. An empty host: at the host its peers reach it by.
    pub(crate) client_address: HostPort,
    /// Those that must be the same on all nodes (`state_settings.rs`).
    pub(crate) settings: Vec<u64>,
}

/// What the other side says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Welcome {
    pub(crate) verdict: Verdict,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) client_address: HostPort,
}

/// Is the dialler let in?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// Yes.
    Accepted = 0,
    /// It belongs to another cluster.
    OtherCluster = 1,
    /// It means another node.
    OtherNode = 2,
    /// It is no node that this one was told of.
    UnknownNode = 3,
    /// It speaks another version.
    OtherVersion = 4,
    /// Its settings of the group State are others.
    OtherSettings = 5,
}

impl Verdict {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Accepted),
            1 => Some(Self::OtherCluster),
            2 => Some(Self::OtherNode),
            3 => Some(Self::UnknownNode),
            4 => Some(Self::OtherVersion),
            5 => Some(Self::OtherSettings),
            _ => None,
        }
    }
}

/// Why there is no connection. In words for the log of this side.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The other side does not speak to peers: the bytes it began with.
    #[error("not a Sampan peer port: it begins with '{}'", .0.escape_ascii())]
    NotAPeer(Vec<u8>),
    /// It speaks another version.
    #[error("it speaks version {0} of the peer protocol, this node {PROTOCOL_VERSION}")]
    Version(u16),
    /// It said something that makes no sense.
    #[error("bad handshake: {0}")]
    Malformed(#[from] DecodeError),
    /// It refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
}

/// A refusal, with what the refusing side said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(pub(crate) Welcome);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Welcome { verdict, cluster, node, .. } = &self.0;
        match verdict {
            Verdict::Accepted => write!(f, "it is {node} of cluster {cluster}"),
            Verdict::OtherCluster => write!(f, "it belongs to cluster {cluster}"),
            Verdict::OtherNode => write!(f, "it is {node}"),
            Verdict::UnknownNode => write!(f, "{node} was not told of this node"),
            Verdict::OtherVersion => write!(f, "{node} refuses version {PROTOCOL_VERSION}"),
            Verdict::OtherSettings => {
                write!(f, "{node} has other settings of the group State, and says which")
            }
        }
    }
}

impl Hello {
    /// The message's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u64(self.cluster.0);
        body.put_u64(self.from.get());
        body.put_u64(self.to.get());
        body.put_u8(match self.stream {
            Stream::Main => 0,
            Stream::Bulk => 1,
        });
        put_address(&self.client_address, &mut body);
        put_settings(&self.settings, &mut body);
        seal(&body)
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let hello = Self {
            cluster: ClusterId(reader.u64()?),
            from: NodeId::decode(&mut reader)?,
            to: NodeId::decode(&mut reader)?,
            stream: match reader.u8()? {
                0 => Stream::Main,
                1 => Stream::Bulk,
                _ => return Err(DecodeError::Invalid("stream")),
            },
            client_address: read_address(&mut reader)?,
            settings: read_settings(&mut reader)?,
        };
        reader.finish()?;
        Ok(hello)
    }

    /// Reads one from a connection.
    pub(crate) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Self, HandshakeError> {
        Ok(Self::decode(&read_body(from).await?)?)
    }
}

impl Welcome {
    /// The message's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u8(self.verdict as u8);
        body.put_u64(self.cluster.0);
        body.put_u64(self.node.get());
        put_address(&self.client_address, &mut body);
        seal(&body)
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let welcome = Self {
            verdict: Verdict::from_byte(reader.u8()?).ok_or(DecodeError::Invalid("verdict"))?,
            cluster: ClusterId(reader.u64()?),
            node: NodeId::decode(&mut reader)?,
            client_address: read_address(&mut reader)?,
        };
        reader.finish()?;
        Ok(welcome)
    }

    /// Reads one from a connection; a refusal is an error, and so is an acceptance by another node
    /// than the one that was meant.
    pub(crate) async fn read<R: AsyncRead + Unpin>(
        from: &mut R,
        hello: &Hello,
    ) -> Result<Self, HandshakeError> {
        let welcome = Self::decode(&read_body(from).await?)?;
        let as_meant = welcome.cluster == hello.cluster && welcome.node == hello.to;
        if welcome.verdict != Verdict::Accepted || !as_meant {
            return Err(HandshakeError::Refused(Refusal(welcome)));
        }
        Ok(welcome)
    }
}

/// Do these first bytes of a client connection come from a peer that has the wrong port?
/// `None`: more bytes are needed to tell.
pub(crate) fn is_from_peer(bytes: &[u8]) -> Option<bool> {
    let magics = [HANDSHAKE_MAGIC, FRAME_MAGIC.to_le_bytes()];
    match bytes.first_chunk::<4>() {
        Some(first) => Some(magics.contains(first)),
        None if magics.iter().any(|magic| magic.starts_with(bytes)) => None,
        None => Some(false),
    }
}

fn seal(body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_BYTES_MAX, "a handshake of {} bytes", body.len());
    let mut out = HANDSHAKE_MAGIC.to_vec();
    out.put_u16(PROTOCOL_VERSION);
    out.put_u16(body.len() as u16);
    out.put(body);
    let checksum = crc32(&[&out]);
    out.put_u32(checksum);
    out
}

async fn read_body<R: AsyncRead + Unpin>(from: &mut R) -> Result<Vec<u8>, HandshakeError> {
    let mut magic = [0; 4];
    from.read_exact(&mut magic).await?;
    if magic != HANDSHAKE_MAGIC {
        return Err(HandshakeError::NotAPeer(magic.to_vec()));
    }
    let (version, length) = (from.read_u16_le().await?, from.read_u16_le().await?);
    if version != PROTOCOL_VERSION {
        return Err(HandshakeError::Version(version));
    }
    if usize::from(length) > BODY_BYTES_MAX {
        return Err(DecodeError::Invalid("length").into());
    }
    let mut body = vec![0; length.into()];
    from.read_exact(&mut body).await?;
    let checksum = from.read_u32_le().await?;
    let header = [&magic[..], &version.to_le_bytes(), &length.to_le_bytes()].concat();
    if crc32(&[&header, &body]) != checksum {
        return Err(DecodeError::Invalid("checksum").into());
    }
    Ok(body)
}

fn put_settings(settings: &[u64], out: &mut Vec<u8>) {
    assert!(settings.len() <= SETTINGS_MAX, "{} settings", settings.len());
    out.put_u8(settings.len() as u8);
    for &setting in settings {
        out.put_u64(setting);
    }
}

fn read_settings(reader: &mut Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    let count = reader.u8()?;
    (0..count).map(|_| reader.u64()).collect()
}

fn put_address(address: &HostPort, out: &mut Vec<u8>) {
    out.put_u16(address.port);
    out.put_bytes(address.host.as_bytes());
}

fn read_address(reader: &mut Reader<'_>) -> Result<HostPort, DecodeError> {
    let port = reader.u16()?;
    let host = std::str::from_utf8(reader.bytes(HOST_BYTES_MAX)?)
        .map_err(|_| DecodeError::Invalid("host"))?;
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(DecodeError::Invalid("host"));
    }
    Ok(HostPort::new(host, port))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
