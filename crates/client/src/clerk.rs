//! The Clerk: the calls a user makes.

use std::time::Duration;

use bytes::Bytes;
use sampan_resp::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::builder::{Builder, Config, TIME_MAX};
use crate::error::{Error, OnceId};
use crate::options::{Outcome, SetOptions, Ttl, millis};
use crate::request::{Call, Command, Kind, Request};
use crate::typed;

/// A client of a cluster. Cheap to clone; clones share one connection and one session.
///
/// Every call ends by the deadline, with a result or an [`Error`]. Two calls that run at the same
/// time may take effect in either order; a call made after another has returned takes effect after
/// it. A call whose future is dropped may still take effect, once.
#[derive(Clone, Debug)]
pub struct Clerk {
    requests: mpsc::Sender<Request>,
    deadline: Duration,
    command_bytes_max: usize,
}

impl Clerk {
    /// Connects to a cluster, given the client addresses (`host:port`) of some of its nodes, with
    /// the defaults of [`Builder`].
    pub async fn connect(addresses: impl IntoIterator<Item: Into<String>>) -> Result<Self, Error> {
        Self::builder().addresses(addresses).connect().await
    }

    /// Sets times and limits before connecting.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) const fn new(requests: mpsc::Sender<Request>, config: &Config) -> Self {
        let Config { deadline, command_bytes_max, .. } = *config;
        Self { requests, deadline, command_bytes_max }
    }

    /// The same client with another deadline for its calls, at most 1 day: one after the other may
    /// have what is left of a time for all of them.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline: deadline.min(TIME_MAX), ..self.clone() }
    }

    /// Ends the session and the connection, of all clones, once the calls under way have ended.
    /// Merely dropping the last clone does the same, if the runtime lives on for a moment.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// The value of a key, or `None` if there is none (`GET`).
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        typed::string(self.read(Command::new("GET").arg(key)).await?)
    }

    /// The values of several keys at one moment (`MGET`).
    pub async fn mget<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        typed::strings(self.read(Command::new("MGET").args(keys)).await?)
    }

    /// The length of a key's value in bytes, 0 if there is none (`STRLEN`).
    pub async fn strlen(&self, key: impl AsRef<[u8]>) -> Result<u64, Error> {
        typed::count(&self.read(Command::new("STRLEN").arg(key)).await?)
    }

    /// How many of the keys exist; one named twice counts twice (`EXISTS`).
    pub async fn exists<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u64, Error> {
        typed::count(&self.read(Command::new("EXISTS").args(keys)).await?)
    }

    /// How long a key has left (`PTTL`).
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl, Error> {
        typed::ttl(&self.read(Command::new("PTTL").arg(key)).await?)
    }

    /// Sets a key for ever (`SET`).
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        typed::ok(&self.write(Command::new("SET").arg(key).arg(value)).await?)
    }

    /// [`Clerk::set`], by the course's name.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.set(key, value).await
    }

    /// Sets a key under conditions or for a time. False if the condition was not met.
    ///
    /// ```
    /// # mod double { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/mod.rs")); }
    /// # use sampan_client::{Clerk, SetOptions};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), sampan_client::Error> {
    /// # let clerk = Clerk::connect([double::Node::default().listen().await]).await?;
    /// let lock = SetOptions::default().if_missing().expire_after(Duration::from_secs(30));
    /// assert!(clerk.set_with("lock", "me", lock).await?);
    /// assert!(!clerk.set_with("lock", "you", lock).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<bool, Error> {
        let command = options.add_to(Command::new("SET").arg(key).arg(value));
        typed::done(&self.write(command).await?)
    }

    /// Sets a key under conditions or for a time, and returns the value before (`SET ... GET`).
    pub async fn get_set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<Option<Bytes>, Error> {
        let command = options.add_to(Command::new("SET").arg(key).arg(value)).arg("GET");
        typed::string(self.write(command).await?)
    }

    /// Sets several keys at once (`MSET`).
    pub async fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let command = pairs
            .into_iter()
            .fold(Command::new("MSET"), |command, (key, value)| command.arg(key).arg(value));
        typed::ok(&self.write(command).await?)
    }

    /// Appends to a key's value, creating it if need be; the length now, in bytes (`APPEND`).
    pub async fn append(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<u64, Error> {
        typed::count(&self.write(Command::new("APPEND").arg(key).arg(value)).await?)
    }

    /// Adds to a key's integer, which starts from 0; the sum (`INCRBY`).
    pub async fn incr_by(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64, Error> {
        typed::integer(&self.write(Command::new("INCRBY").arg(key).number(by)).await?)
    }

    /// Removes keys; how many there were (`DEL`).
    pub async fn del<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u64, Error> {
        typed::count(&self.write(Command::new("DEL").args(keys)).await?)
    }

    /// Lets a key expire after this long, in whole milliseconds, at least one. False if there is no
    /// such key (`PEXPIRE`).
    pub async fn expire(&self, key: impl AsRef<[u8]>, after: Duration) -> Result<bool, Error> {
        let command = Command::new("PEXPIRE").arg(key).number(millis(after));
        typed::flag(&self.write(command).await?)
    }

    /// Lets a key live for ever. False if there is no such key, or it did already (`PERSIST`).
    pub async fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        typed::flag(&self.write(Command::new("PERSIST").arg(key)).await?)
    }

    /// What the node we are connected to says about itself: all of it, or one section (`INFO`).
    pub async fn info(&self, section: Option<&str>) -> Result<String, Error> {
        let text = typed::string(self.read(Command::new("INFO").args(section)).await?)?;
        Ok(String::from_utf8_lossy(&text.unwrap_or_default()).into_owned())
    }

    /// What became of the write that ended with [`Error::Unknown`] under this name (`OUTCOME`).
    ///
    /// The cluster remembers it while the session lives, until as many more writes have gone
    /// through it as [`Builder::window`] says (256 by default), or the server's limit for the
    /// replies of one session is met. [`Outcome::NotApplied`] is so at this moment: a copy of the
    /// write that is still on its way may yet be applied.
    pub async fn outcome(&self, id: OnceId) -> Result<Outcome, Error> {
        let command = Command::new("OUTCOME");
        let command = command.arg(id.session.to_string()).arg(id.sequence.to_string());
        typed::outcome(&self.read(command).await?)
    }

    /// Sends any command that changes nothing, its name first. It is repeated freely until a node
    /// answers; a command that writes would be applied more than once: use [`Clerk::once`].
    pub async fn command<A: AsRef<[u8]>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Value, Error> {
        self.read(Command::default().args(args)).await
    }

    /// Sends any command that writes data, its name first, to be applied exactly once.
    ///
    /// ```
    /// # mod double { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/mod.rs")); }
    /// # use sampan_client::{Clerk, Value};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), sampan_client::Error> {
    /// # let clerk = Clerk::connect([double::Node::default().listen().await]).await?;
    /// assert_eq!(clerk.once(["APPEND", "log", "line"]).await?, Value::Integer(4));
    /// assert_eq!(clerk.command(["GET", "log"]).await?, Value::Bulk("line".into()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn once<A: AsRef<[u8]>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Value, Error> {
        self.write(Command::default().args(args)).await
    }

    pub(crate) async fn read(&self, command: Command) -> Result<Value, Error> {
        self.call(Kind::Read, command).await
    }

    async fn write(&self, command: Command) -> Result<Value, Error> {
        self.call(Kind::Write, command).await
    }

    async fn call(&self, kind: Kind, command: Command) -> Result<Value, Error> {
        if command.is_empty() {
            return Err(Error::Invalid("a command needs a name".to_owned()));
        }
        if command.bytes() > self.command_bytes_max {
            let (bytes, bytes_max) = (command.bytes(), self.command_bytes_max);
            return Err(Error::Invalid(format!("{bytes} bytes, at most {bytes_max} are sent")));
        }
        let (reply, answer) = oneshot::channel();
        let call = Call::new(kind, command, Instant::now() + self.deadline, reply);
        self.requests.send(Request::Call(call)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}
