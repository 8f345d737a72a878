//! One connection: its buffers, and what is in flight on it. Replies come in the order of the
//! requests, so what is in flight is a queue.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use sampan_base::SessionId;
use sampan_resp::{ReplyError, ReplyLimits, ReplyParser, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::request::{Call, Command};

/// Room made in the input buffer before each read.
const READ_BYTES: usize = 16 << 10;

/// A way to a node: TCP, or memory in tests.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Connects to an address.
pub(crate) type Connector = Arc<dyn Fn(String) -> Connecting + Send + Sync>;

/// Connects by TCP, without Nagle's delay.
pub(crate) fn tcp() -> Connector {
    Arc::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    })
}

/// What a request on the wire was sent for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Call(Call),
    OpenSession,
    CloseSession,
}

/// A request that has been encoded and not been answered.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) purpose: Purpose,
    sent_at: Instant,
    /// The connection's byte count behind its last byte.
    end: u64,
}

/// See the module.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    parser: ReplyParser,
    input: BytesMut,
    output: Vec<u8>,
    /// Bytes of `output` the stream has taken.
    output_taken: usize,
    /// All bytes ever put into `output`.
    encoded: u64,
    in_flight: VecDeque<InFlight>,
    /// The stream took no more when it was last asked to.
    is_full: bool,
    /// The last sign of life: bytes came, or a stream that was full took more. What one that was
    /// not full takes shows nothing, as it may take it for a node that is gone.
    alive_at: Instant,
    /// Why this node is to be left when what is in flight has been answered.
    pub(crate) leaving: Option<String>,
}

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, limits: ReplyLimits) -> Self {
        Self {
            stream,
            parser: ReplyParser::new(limits),
            input: BytesMut::new(),
            output: Vec::new(),
            output_taken: 0,
            encoded: 0,
            in_flight: VecDeque::new(),
            is_full: false,
            alive_at: Instant::now(),
            leaving: None,
        }
    }

    /// Writes what is to be written, then waits for bytes and reads them: how many, 0 at the end.
    /// May be dropped at any time and called again.
    pub(crate) async fn exchange(&mut self) -> io::Result<usize> {
        let bytes = poll_fn(|context| {
            self.write_some(context)?;
            self.input.reserve(READ_BYTES);
            pin!(self.stream.read_buf(&mut self.input)).poll(context)
        })
        .await?;
        self.alive_at = Instant::now();
        Ok(bytes)
    }

    /// Writes what the stream takes now.
    fn write_some(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.unsent_bytes() > 0 {
            let rest = self.output.get(self.output_taken..).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => self.took(bytes),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.is_full = true;
                    return Ok(());
                }
            }
        }
        self.output.clear();
        self.output_taken = 0;
        Ok(())
    }

    fn took(&mut self, bytes: usize) {
        self.output_taken += bytes;
        if std::mem::take(&mut self.is_full) {
            self.alive_at = Instant::now();
        }
    }

    /// The next reply that has been read whole. Messages that answer nothing are skipped.
    pub(crate) fn next_reply(&mut self) -> Result<Option<Value>, ReplyError> {
        loop {
            let progress = self.parser.parse(&self.input)?;
            self.input.advance(progress.consumed);
            match progress.value {
                Some(Value::Push(_)) => {}
                value => return Ok(value),
            }
        }
    }

    /// Takes what the next reply answers.
    pub(crate) fn next_in_flight(&mut self) -> Option<Purpose> {
        self.in_flight.pop_front().map(|in_flight| in_flight.purpose)
    }

    /// Sends a call: a write under its name, acknowledging all up to `acked`.
    pub(crate) fn send(&mut self, call: Call, acked: u64, now: Instant) {
        self.encode(|output| match call.id {
            Some(id) => call.command.write_once(id, acked, output),
            None => call.command.write(output),
        });
        self.push(Purpose::Call(call), now);
    }

    pub(crate) fn send_open_session(&mut self, now: Instant) {
        self.encode(|output| Command::new("SESSION").arg("OPEN").write(output));
        self.push(Purpose::OpenSession, now);
    }

    pub(crate) fn send_close_session(&mut self, id: SessionId, now: Instant) {
        let command = Command::new("SESSION").arg("CLOSE").arg(id.to_string());
        self.encode(|output| command.write(output));
        self.push(Purpose::CloseSession, now);
    }

    fn encode(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.output.len();
        write(&mut self.output);
        self.encoded += (self.output.len() - before) as u64;
    }

    fn push(&mut self, purpose: Purpose, now: Instant) {
        self.in_flight.push_back(InFlight { purpose, sent_at: now, end: self.encoded });
    }

    pub(crate) fn in_flight(&mut self) -> &mut VecDeque<InFlight> {
        &mut self.in_flight
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes waiting for the stream to take them.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.output.len() - self.output_taken
    }

    /// Since when the node owes an answer and there was no sign of life.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.in_flight.front().map(|oldest| oldest.sent_at.max(self.alive_at))
    }

    /// Ends the connection. Each thing in flight, oldest first, and whether it left whole: a
    /// request of which the last byte was not sent cannot have been understood.
    pub(crate) fn into_in_flight(self) -> impl Iterator<Item = (Purpose, bool)> {
        let sent = self.encoded - self.unsent_bytes() as u64;
        self.in_flight.into_iter().map(move |it| (it.purpose, it.end <= sent))
    }
}
