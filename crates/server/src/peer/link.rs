//! The sending side of one stream to one peer: a bounded queue of frames, and a task that keeps a
//! connection up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use sampan_base::NodeId;
use sampan_replica::frame_queue::FrameQueue;
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Envelope, Input, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::Peers;
use super::handshake::{HandshakeError, Hello, Welcome};
use crate::net;
use crate::state_settings;
use crate::stats::count_up;

/// Pieces of the queue handed to the kernel by one call.
const PIECES_MAX: usize = 64;
/// Lines in the log about one link: one more in each of these, and not more than so many at once.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
const LINES_MAX: u32 = 5;

/// The queue and, while there is one, the connection.
#[derive(Default)]
pub(super) struct Link {
    state: RefCell<State>,
    /// The peer has dialled this node: so it can be dialled.
    is_there: Notify,
}

#[derive(Default)]
struct State {
    socket: Option<OwnedWriteHalf>,
    queue: FrameQueue,
    frames: Frames,
    /// In the list of links to flush.
    is_marked: bool,
    /// The kernel takes no more for now: the task goes on when it does.
    is_blocked: bool,
    /// Why a write failed: the task ends the connection.
    failure: Option<String>,
    task: Option<Waker>,
}

/// The frames in a queue that matter one by one.
///
/// The outcomes of forwarded commands: one is said once, and were it dropped, the peer's client
/// would hear that it is not known. So they have no limit of their own but that of the commands
/// under way, and take nothing from that of the others.
///
/// And the forwards: of one that no byte has left of when the connection ends, it is known that it
/// does not arrive.
#[derive(Default)]
struct Frames {
    outcome_bytes: usize,
    /// Where each outcome ends in all that was ever queued, and its length.
    outcomes: VecDeque<(u64, usize)>,
    /// Where each forward begins there, and its number.
    forwards: VecDeque<(u64, u64)>,
    pushed_bytes: u64,
    sent_bytes: u64,
}

impl Frames {
    /// A frame was queued.
    fn pushed(&mut self, frame_bytes: usize, message: &PeerMessage) {
        let start = self.pushed_bytes;
        self.pushed_bytes += frame_bytes as u64;
        match message {
            PeerMessage::ForwardReply(_) => {
                self.outcome_bytes += frame_bytes;
                self.outcomes.push_back((self.pushed_bytes, frame_bytes));
            }
            PeerMessage::Forward(forward) => self.forwards.push_back((start, forward.frame_seq)),
            _ => {}
        }
    }

    /// So many bytes of the queue are gone.
    fn sent(&mut self, count: usize) {
        self.sent_bytes += count as u64;
        while let Some((end, bytes)) = self.outcomes.front()
            && *end <= self.sent_bytes
        {
            self.outcome_bytes -= bytes;
            self.outcomes.pop_front();
        }
        while self.forwards.front().is_some_and(|(start, _)| *start < self.sent_bytes) {
            self.forwards.pop_front();
        }
    }
}

impl Link {
    /// Queues a frame, or drops it. True: this link is to be flushed at the end of the turn.
    pub(super) fn push(&self, peers: &Peers, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.socket.is_none() {
            count_up(&peers.counters.dropped_unconnected, 1);
            peers.was_not_sent(envelope);
            return false;
        }
        let identity = peers.identity;
        let way = (identity.cluster, identity.node, envelope.to);
        let is_outcome = matches!(envelope.message, PeerMessage::ForwardReply(_));
        let bytes_max = if is_outcome {
            usize::MAX
        } else {
            peers.limits.peer_queue_bytes_max + state.frames.outcome_bytes
        };
        let pushed = state.queue.push(way, &envelope.message, bytes_max);
        let Some(frame_bytes) = pushed else {
            count_up(&peers.counters.dropped_queue_full, 1);
            peers.was_not_sent(envelope);
            return false;
        };
        state.frames.pushed(frame_bytes, &envelope.message);
        count_up(&peers.counters.frames_sent, 1);
        count_up(&peers.counters.bytes_sent, frame_bytes as u64);
        !std::mem::replace(&mut state.is_marked, true)
    }

    /// Writes what the kernel takes.
    pub(super) fn flush(&self) {
        let mut state = self.state.borrow_mut();
        state.is_marked = false;
        if !state.is_blocked {
            state.write();
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued_bytes(&self) -> usize {
        self.state.borrow().queue.len()
    }

    /// Is there a connection?
    pub(super) fn is_connected(&self) -> bool {
        self.state.borrow().socket.is_some()
    }

    /// The peer is up: a link without a connection waits no longer before it dials.
    pub(super) fn peer_is_there(&self) {
        if !self.is_connected() {
            self.is_there.notify_one();
        }
    }

    fn connect(&self, socket: OwnedWriteHalf) {
        let mut state = self.state.borrow_mut();
        *state = State { socket: Some(socket), is_marked: state.is_marked, ..State::default() };
    }

    /// The numbers of the forwards that no byte has left of.
    fn disconnect(&self) -> impl Iterator<Item = u64> {
        let mut state = self.state.borrow_mut();
        let is_marked = state.is_marked;
        let ended = std::mem::replace(&mut *state, State { is_marked, ..State::default() });
        ended.frames.forwards.into_iter().map(|(_, frame_seq)| frame_seq)
    }

    /// What the task does while the connection is up: ready when it is not any more.
    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<String> {
        let mut state = self.state.borrow_mut();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            state.task = Some(cx.waker().clone());
        }
        while state.is_blocked && state.failure.is_none() {
            let Some(socket) = &state.socket else { break };
            match socket.as_ref().poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Ready(Ok(())) => {
                    state.is_blocked = false;
                    state.write();
                }
            }
        }
        state.failure.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl State {
    fn write(&mut self) {
        let Some(socket) = &self.socket else { return };
        while !self.queue.is_empty() {
            match write_some(socket, &self.queue) {
                Ok(written) => {
                    self.queue.mark_sent(written);
                    self.frames.sent(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    break;
                }
                Err(error) => {
                    self.failure = Some(format!("a write failed: {error}"));
                    break;
                }
            }
        }
        if self.is_blocked || self.failure.is_some() {
            self.task.as_ref().inspect(|task| task.wake_by_ref());
        }
    }
}

/// One call: how many bytes the kernel took.
fn write_some(socket: &OwnedWriteHalf, queue: &FrameQueue) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); PIECES_MAX];
    let pieces = slices.iter_mut().zip(queue.pieces()).map(|(slice, piece)| {
        *slice = IoSlice::new(piece);
    });
    match pieces.count() {
        1 => socket.try_write(&slices[0]),
        count => socket.try_write_vectored(&slices[..count]),
    }
}

/// Keeps one stream to one peer up, for ever.
pub(super) async fn run(peers: Rc<Peers>, peer: NodeId, stream: Stream) {
    let Some(link) = peers.link(peer, stream) else { return };
    let mut lines = Lines::new(&peers, peer, stream);
    let mut wait = peers.limits.redial_time_min;
    loop {
        if stream == Stream::Main {
            peers.inbox.push(Input::PeerUnreachable(peer));
        }
        match dial(&peers, link, peer, stream).await {
            Err(error) => lines.say(&format!("not reachable: {error}")),
            Ok((socket, reader)) => {
                wait = peers.limits.redial_time_min;
                link.connect(socket);
                lines.say("connected");
                // On a new bulk stream a snapshot goes on at once, but the main one says who is
                // reached.
                if peers.is_connected(peer) {
                    peers.inbox.push(Input::PeerConnected(peer));
                }
                let why = until_closed(link, reader).await;
                for frame_seq in link.disconnect() {
                    peers.inbox.push(Input::ForwardNotSent { to: peer, frame_seq });
                }
                lines.say(&format!("connection lost: {why}"));
                if stream == Stream::Main {
                    peers.inbox.push(Input::PeerDisconnected(peer));
                }
            }
        }
        let pause = peers.rng.borrow_mut().duration_between(wait / 2, wait);
        wait = tokio::select! {
            () = tokio::time::sleep(pause) => (wait * 2).min(peers.limits.redial_time_max),
            () = link.is_there.notified() => peers.limits.redial_time_min,
        };
    }
}

/// Connects and shakes hands.
async fn dial(
    peers: &Peers,
    link: &Link,
    peer: NodeId,
    stream: Stream,
) -> Result<(OwnedWriteHalf, OwnedReadHalf), HandshakeError> {
    let handshake = async {
        let address = peers.by_id[&peer].address.as_pair();
        let mut socket = tokio::select! {
            biased;
            socket = TcpStream::connect(address) => socket?,
            // It was not when this attempt began, whose next packet may be seconds away.
            () = link.is_there.notified() => TcpStream::connect(address).await?,
        };
        net::tune_peer(&socket, peers.limits.peer_ack_time);
        let hello = Hello {
            cluster: peers.identity.cluster,
            from: peers.identity.node,
            to: peer,
            stream,
            client_address: peers.advertised.clone(),
            settings: state_settings::values(&peers.state_settings),
        };
        socket.write_all(&hello.encode()).await?;
        let welcome = Welcome::read(&mut socket, &hello).await?;
        peers.told_client_address(peer, welcome.client_address);
        let (reader, writer) = socket.into_split();
        Ok((writer, reader))
    };
    tokio::time::timeout(peers.limits.handshake_time, handshake)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

/// Writes what was left over whenever the kernel takes more, and notices the other side's end: it
/// says nothing on this connection, so anything to read is its end or a mistake.
async fn until_closed(link: &Link, mut reader: OwnedReadHalf) -> String {
    let mut byte = [0];
    let mut closed = pin!(reader.read(&mut byte));
    poll_fn(|cx| match closed.as_mut().poll(cx) {
        Poll::Ready(Ok(0)) => Poll::Ready("closed by the peer".into()),
        Poll::Ready(Ok(_)) => Poll::Ready("the peer answered on a one-way connection".into()),
        Poll::Ready(Err(error)) => Poll::Ready(error.to_string()),
        Poll::Pending => link.poll_connected(cx),
    })
    .await
}

/// Log lines about a link: one for each change, but few while it flaps.
struct Lines<'a> {
    peers: &'a Peers,
    peer: NodeId,
    stream: Stream,
    last: String,
    allowed: u32,
    counted_at: Instant,
}

impl<'a> Lines<'a> {
    fn new(peers: &'a Peers, peer: NodeId, stream: Stream) -> Self {
        let last = String::new();
        Self { peers, peer, stream, last, allowed: LINES_MAX, counted_at: Instant::now() }
    }

    fn say(&mut self, text: &str) {
        // The other stream of the same peer has the same fate.
        if self.stream == Stream::Bulk || self.last == text {
            return;
        }
        let intervals = self.counted_at.elapsed().as_millis() / LINE_INTERVAL.as_millis();
        if intervals > 0 {
            self.allowed = LINES_MAX.min(self.allowed.saturating_add(intervals as u32));
            self.counted_at = Instant::now();
        }
        let Some(allowed) = self.allowed.checked_sub(1) else { return };
        self.allowed = allowed;
        let address = &self.peers.by_id[&self.peer].address;
        self.peers.log.line(format_args!("peer {} at {address}: {text}", self.peer));
        self.last = text.into();
    }
}

#[cfg(test)]
mod tests {
    use sampan_base::{ClusterId, LogIndex};
    use sampan_replica::wire::Held;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::on_loop;

    #[test]
    fn a_write_that_fails_ends_the_connection_and_says_why() {
        on_loop(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            net::end_sending(&ours);
            let link = Link::default();
            let (_reader, writer) = ours.into_split();
            link.connect(writer);
            let (first, through) = (LogIndex(1), LogIndex(1));
            let message = PeerMessage::Held(Held { first, through, entries: Vec::new() });
            let way = (ClusterId(1), NodeId::of(1), NodeId::of(2));
            link.state.borrow_mut().queue.push(way, &message, usize::MAX).unwrap();
            link.flush();
            let why = poll_fn(|cx| link.poll_connected(cx)).await;
            assert!(why.starts_with("a write failed: Broken pipe"), "{why}");
        });
    }
}
