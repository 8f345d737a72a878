//! The Clerk: a client of Sampan that applies every write exactly once.
//!
//! A [`Clerk`] is given the addresses of some nodes and takes any that answers. It opens a session
//! (thesis 6.3) with its first write and numbers its writes in it; when a reply does not come, the
//! connection breaks, or the leader changes, it sends the write again under the same number, to any
//! node, and the cluster answers with the outcome of the first time. It gives up at a deadline, and
//! only then can an outcome be unknown ([`Error::Unknown`]).
//!
//! Calls from one [`Clerk`] and its clones share one connection, and many are in flight on it.
//!
//! ```
//! # mod double { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/mod.rs")); }
//! use sampan_client::Clerk;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), sampan_client::Error> {
//! # let node = double::Node::default();
//! # let addresses = [node.clone().listen().await, node.listen().await];
//! let clerk = Clerk::connect(addresses).await?;
//! clerk.set("greeting", "hello").await?;
//! clerk.append("greeting", ", world").await?;
//! assert_eq!(clerk.get("greeting").await?.as_deref(), Some(&b"hello, world"[..]));
//!
//! // Many at once, pipelined: clones are cheap.
//! let (a, b) = tokio::join!(clerk.incr_by("visits", 1), clerk.incr_by("visits", 1));
//! assert_eq!(a? + b?, 1 + 2);
//! clerk.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! What is absent: anything about how the cluster works. The Clerk knows the commands `SESSION`,
//! `ONCE`, `OUTCOME` and the meaning of a few errors (`docs/protocol.md`), no more.
#![forbid(unsafe_code)]

mod answers;
mod backoff;
mod builder;
mod clerk;
mod connection;
mod driver;
mod error;
mod options;
mod request;
mod session;
mod typed;
mod verdict;

pub use builder::Builder;
pub use clerk::Clerk;
pub use error::{Error, OnceId};
pub use options::{Outcome, SetOptions, Ttl};
pub use sampan_base::SessionId;
pub use sampan_resp::Value;

#[cfg(test)]
mod clerk_tests;
#[cfg(test)]
mod upload_tests;

/// Also the test double of `tests/` and of the examples in the documentation.
#[cfg(test)]
#[path = "../tests/double/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used)]
mod double;
