//! A backup as a node gives it: `BACKUP` over a connection that may be lost and made again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use sampan_resp::Value;
use sampan_server::BACKUP_UNREADABLE;
use tokio::time::{sleep, timeout};

use super::Failed;
use crate::probe::{self, Connection};

/// A lost connection is tried again this often.
const REDIAL_TIME: Duration = Duration::from_millis(100);
/// While a node takes a snapshot, or reads one, it is asked this often whether it still lives.
const PULSE_TIME: Duration = Duration::from_secs(1);
/// A node that is to let go of a backup is not waited for longer: it does so by itself in time.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// What a node finds of a backup that arrived damaged.
pub(super) enum Finding {
    /// Its own file is damaged: the next backup is another one.
    GivenUp,
    /// Its own file is sound.
    Sound,
    /// It does not say: it cannot be asked, or does not know the question yet.
    Unknown(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GivenUp => f.write_str("has given up that snapshot"),
            Self::Sound => f.write_str("finds its own file sound"),
            Self::Unknown(why) => write!(f, "does not say what it finds: {why}"),
        }
    }
}

/// Why a node does not give a backup, or not all of it.
#[derive(Debug)]
pub(super) struct Lost(pub(super) String);

/// A backup that a node has begun.
pub(super) struct Remote {
    address: String,
    time: Duration,
    connection: Connection,
    id: String,
    /// Its length.
    pub(super) bytes: u64,
    /// Where the next piece begins.
    offset: u64,
    /// That piece is asked for already, so that the node reads it while the last one is checked.
    asked: bool,
}

impl Remote {
    /// Waits until the node has a snapshot of everything acknowledged so far. `time` is for
    /// anything that does not take a disk's time.
    pub(super) async fn begin(address: &str, time: Duration) -> Result<Self, Lost> {
        let mut connection = Connection::open(address, time).await.map_err(Lost)?;
        let begun = call_patiently(&mut connection, address, time, &["BACKUP", "BEGIN"]).await?;
        let (id, bytes) = id_and_bytes(&begun).ok_or_else(strange)?;
        let address = address.to_owned();
        Ok(Self { address, time, connection, id, bytes, offset: 0, asked: false })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        let piece = match self.try_next().await {
            Ok(piece) => piece,
            Err(why) => self.next_after(why).await?,
        };
        match piece {
            Value::Bulk(bytes) if bytes.is_empty() => Ok(None),
            Value::Bulk(bytes) => {
                self.offset += bytes.len() as u64;
                self.asked = self.ask().await.is_ok();
                Ok(Some(bytes))
            }
            Value::Error(why) if why.starts_with(BACKUP_UNREADABLE) => Err(Failed::Damaged(why)),
            Value::Error(text) => Err(Lost(text).into()),
            _ => Err(strange().into()),
        }
    }

    /// Says that it is damaged, and waits for the node to look. Over a connection of its own: on
    /// the other one a piece may be on its way.
    pub(super) async fn say_damaged(&self) -> Finding {
        let say = async {
            let mut connection = Connection::open(&self.address, self.time).await.map_err(Lost)?;
            let command = ["BACKUP", "DAMAGED", &self.id];
            call_patiently(&mut connection, &self.address, self.time, &command).await
        };
        match say.await {
            Ok(Value::Integer(1)) => Finding::GivenUp,
            Ok(Value::Integer(0)) => Finding::Sound,
            Ok(_) => Finding::Unknown(strange().0),
            Err(Lost(why)) => Finding::Unknown(why),
        }
    }

    /// Lets go of it; whether the node hears of that does not matter much.
    pub(super) async fn end(mut self) {
        _ = timeout(END_TIME_MAX, async {
            if std::mem::take(&mut self.asked) {
                _ = self.connection.reply().await;
            }
            self.connection.call(&["BACKUP", "END", &self.id]).await
        })
        .await;
    }

    async fn ask(&mut self) -> Result<(), String> {
        let offset = self.offset.to_string();
        self.connection.send(&["BACKUP", "READ", &self.id, &offset]).await
    }

    async fn try_next(&mut self) -> Result<Value, String> {
        if !std::mem::take(&mut self.asked) {
            self.ask().await?;
        }
        match timeout(self.time, self.connection.reply()).await {
            Ok(reply) => reply,
            Err(_) => Err(format!("no answer within {} ms", self.time.as_millis())),
        }
    }

    /// The connection is lost. The backup is not: its id holds at this node for a while.
    async fn next_after(&mut self, why: String) -> Result<Value, Lost> {
        let time = self.time;
        let again = async {
            loop {
                if let Ok(connection) = Connection::open(&self.address, self.time).await {
                    self.connection = connection;
                    self.asked = false;
                    if let Ok(piece) = self.try_next().await {
                        return piece;
                    }
                }
                sleep(REDIAL_TIME).await;
            }
        };
        timeout(time, again).await.map_err(|_| Lost(why))
    }
}

/// What a node answers, however long its disk takes for that as long as it lives.
async fn call_patiently(
    connection: &mut Connection,
    address: &str,
    time: Duration,
    command: &[&str],
) -> Result<Value, Lost> {
    let reply = tokio::select! {
        reply = connection.call(command) => reply.map_err(Lost)?,
        lost = until_silent(address, time) => return Err(lost),
    };
    match reply {
        Value::Error(text) => Err(Lost(text)),
        reply => Ok(reply),
    }
}

/// What `BACKUP BEGIN` answers: id, index, term, bytes.
fn id_and_bytes(reply: &Value) -> Option<(String, u64)> {
    let Value::Array(items) = reply else { return None };
    let [id, Value::Integer(_), Value::Integer(_), Value::Integer(bytes)] = &items[..] else {
        return None;
    };
    let id = String::from_utf8(id.as_bytes()?.to_vec()).ok()?;
    Some((id, u64::try_from(*bytes).ok()?))
}

fn strange() -> Lost {
    Lost("it does not answer BACKUP as a Sampan node does".to_owned())
}

/// Ends when a node has stopped answering.
async fn until_silent(address: &str, time: Duration) -> Lost {
    loop {
        sleep(PULSE_TIME).await;
        if let Err(why) = probe::info(address, "server", time).await {
            return Lost(why);
        }
    }
}
