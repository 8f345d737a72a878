//! One question to one node: its `INFO`, over a connection of its own. Unlike the Clerk it goes to
//! this node and no other, and tells what went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_resp::{ReplyLimits, ReplyParser, Value, write_command};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The fields of an `INFO` reply.
pub(crate) type Fields = BTreeMap<String, String>;

/// Asks a node for a section of its `INFO`; within `time`, or the reason why not.
pub(crate) async fn info(address: &str, section: &str, time: Duration) -> Result<Fields, String> {
    match timeout(time, ask(address, &["INFO", section])).await {
        Ok(Ok(Value::Error(text))) => Err(text),
        Ok(Ok(value)) => value
            .as_bytes()
            .map(|text| fields(&String::from_utf8_lossy(text)))
            .ok_or_else(|| "not a Sampan node".to_owned()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} ms", time.as_millis())),
    }
}

async fn ask(address: &str, command: &[&str]) -> Result<Value, String> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    };
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let mut request = Vec::new();
    write_command(&mut request, command);
    stream.write_all(&request).await.map_err(failed)?;
    let mut parser = ReplyParser::new(ReplyLimits::default());
    let mut buffer = Vec::new();
    loop {
        let progress = parser.parse(&buffer).map_err(|error| error.to_string())?;
        if let Some(value) = progress.value {
            return Ok(value);
        }
        buffer.drain(..progress.consumed);
        if stream.read_buf(&mut buffer).await.map_err(failed)? == 0 {
            return Err("the connection was closed".to_owned());
        }
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
        let fields = fields("# Raft\r\nrole:leader\r\nterm:3\r\n\r\n");
        assert_eq!(fields.len(), 2);
        assert_eq!(fields["role"], "leader");
        assert_eq!(fields["term"], "3");
    }
}
