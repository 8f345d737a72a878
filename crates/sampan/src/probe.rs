//! A connection to one node, and one question to it: its `INFO`. Unlike the Clerk it goes to
//! this node and no other, and tells what went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_resp::{ReplyLimits, ReplyParser, Value, write_command};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Room for bytes to read at once.
const READ_BYTES: usize = 64 << 10;

/// The fields of an `INFO` reply.
pub(crate) type Fields = BTreeMap<String, String>;

/// Asks a node for a section of its `INFO`; within `time`, or the reason why not.
pub(crate) async fn info(address: &str, section: &str, time: Duration) -> Result<Fields, String> {
    match timeout(time, ask(address, time, &["INFO", section])).await {
        Ok(Ok(Value::Error(text))) => Err(text),
        Ok(Ok(value)) => value
            .as_bytes()
            .map(|text| fields(&String::from_utf8_lossy(text)))
            .ok_or_else(|| "not a Sampan node".to_owned()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} ms", time.as_millis())),
    }
}

async fn ask(address: &str, time: Duration, command: &[&str]) -> Result<Value, String> {
    Connection::open(address, time).await?.call(command).await
}

/// A connection to one node. Errors are words for people.
pub(crate) struct Connection {
    stream: TcpStream,
    parser: ReplyParser,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects within this time.
    pub(crate) async fn open(address: &str, time: Duration) -> Result<Self, String> {
        let stream = match timeout(time, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(|error| failed(&error))?,
            Err(_) => return Err(format!("no connection within {} ms", time.as_millis())),
        };
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let parser = ReplyParser::new(ReplyLimits::default());
        Ok(Self { stream, parser, buffer: Vec::new() })
    }

    /// Sends a command.
    pub(crate) async fn send(&mut self, command: &[&str]) -> Result<(), String> {
        let mut request = Vec::new();
        write_command(&mut request, command);
        self.stream.write_all(&request).await.map_err(|error| failed(&error))
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self) -> Result<Value, String> {
        loop {
            let progress = self.parser.parse(&self.buffer).map_err(|error| error.to_string())?;
            self.buffer.drain(..progress.consumed);
            if let Some(value) = progress.value {
                return Ok(value);
            }
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(|error| failed(&error))? == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }

    /// Sends a command; its reply.
    pub(crate) async fn call(&mut self, command: &[&str]) -> Result<Value, String> {
        self.send(command).await?;
        self.reply().await
    }
}

fn failed(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// `name:value` a line; other lines are headings.
fn fields(text: &str) -> Fields {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_headings_are_not() {
        let fields = fields("# Raft\r\nraft_role:leader\r\nterm:3\r\n\r\n");
        assert_eq!(fields.len(), 2);
        assert_eq!(fields["raft_role"], "leader");
        assert_eq!(fields["term"], "3");
    }
}
