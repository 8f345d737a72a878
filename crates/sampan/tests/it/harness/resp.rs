//! One blocking connection to one node, for tests that must know which node they talk to.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use sampan_resp::{ReplyLimits, ReplyParser, Value, write_command};

/// A connection in RESP2 as it is after connecting.
pub(crate) struct Connection {
    stream: TcpStream,
    parser: ReplyParser,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; whoever does not answer for 20 s has failed the test.
    pub(crate) fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let parser = ReplyParser::new(ReplyLimits::default());
        Ok(Self { stream, parser, buffer: Vec::new() })
    }

    /// From now on a reply is waited for this long only.
    pub(crate) fn patience(self, time: Duration) -> Self {
        self.stream.set_read_timeout(Some(time)).unwrap();
        self
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a command and does not wait.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        write_command(&mut bytes, command);
        self.send_raw(&bytes)
    }

    /// The next reply.
    pub(crate) fn reply(&mut self) -> std::io::Result<Value> {
        loop {
            let progress = self.parser.parse(&self.buffer).map_err(std::io::Error::other)?;
            self.buffer.drain(..progress.consumed);
            if let Some(value) = progress.value {
                return Ok(value);
            }
            let mut bytes = [0; 8 << 10];
            let count = self.stream.read(&mut bytes)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// Sends a command and waits for its reply.
    pub(crate) fn try_call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> std::io::Result<Value> {
        self.send(command)?;
        self.reply()
    }

    /// Sends a command and waits for its reply; a failing connection fails the test.
    #[track_caller]
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Value {
        self.try_call(command).unwrap()
    }

    /// Everything the node sends until it closes the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the node neither answered nor closed: {error}"),
        }
        bytes
    }
}
