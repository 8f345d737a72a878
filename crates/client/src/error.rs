//! What can go wrong with a call, sorted by what the caller may conclude about a write.

use std::fmt;

use sampan_base::SessionId;
use thiserror::Error;

/// The name of one write: it is applied at most once under it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OnceId {
    /// The session it was sent in.
    pub session: SessionId,
    /// Its number there, counted from 1.
    pub sequence: u64,
}

impl fmt::Display for OnceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in session {}", self.sequence, self.session)
    }
}

/// Why a call has no result. [`Error::may_be_applied`] says what that means for a write.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// The deadline passed while the write might have been applied, or might still be.
    /// [`crate::Clerk::outcome`] tells more, once a node can be reached.
    #[error("outcome of write {id} not known, it may still be applied: {why}")]
    Unknown {
        /// The write.
        id: OnceId,
        /// What kept it from being answered.
        why: String,
    },
    /// The session ended (it was idle too long, or evicted) after the write had been sent at least
    /// once without an answer, so nobody remembers whether it was applied. Later writes go into a
    /// new session by themselves.
    #[error("session expired, outcome of write {id} not known")]
    SessionExpired {
        /// The write.
        id: OnceId,
    },
    /// The cluster's answer is this error: its code and text, such as `WRONGTYPE Operation against
    /// a key holding the wrong kind of value`. A write changed nothing.
    #[error("{0}")]
    Rejected(String),
    /// The deadline passed and the write was certainly not applied, nor will it be; or nobody
    /// answered a read.
    #[error("not applied: {0}")]
    Unavailable(String),
    /// The server does not know sessions, so it is not Sampan; its answer. Nothing was applied.
    #[error("the server is not a Sampan node, it has no sessions: {0}")]
    NoSessions(String),
    /// The answer is none that the protocol allows here, or longer than a Clerk takes. A write may
    /// have been applied.
    #[error("answer against the protocol: {0}")]
    Protocol(String),
    /// The request cannot be sent as it is. Nothing was sent.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The Clerk was closed, or its runtime was shut down. A write under way may be applied.
    #[error("the Clerk is closed")]
    Closed,
}

impl Error {
    /// Can the write that ended with this error have been applied, or still be?
    pub const fn may_be_applied(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::SessionExpired { .. }
            | Self::Protocol(_)
            | Self::Closed => true,
            Self::Rejected(_) | Self::Unavailable(_) | Self::NoSessions(_) | Self::Invalid(_) => {
                false
            }
        }
    }
}
