//! The task of one connection: reads requests from its socket, answers what needs no replica, hands
//! on the rest, and sees the connection to its end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use sampan_kv::Class;
use sampan_replica::{Input, Request};
use sampan_resp::{Args, Parsed, ProtocolError};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

use super::intake::Intake;
use super::{Client, Ending, intake, output, transactions};
use crate::commands;
use crate::net;
use crate::node::Node;
use crate::peer::handshake::is_from_peer;
use crate::stats::count_up;

/// Commands with no more arguments than this are parsed without allocating.
const ARGUMENTS_INLINE: usize = 8;
/// A longer part of a request gets a buffer of its own, which grows as it arrives.
const PARTIAL_SHARED_BYTES_MAX: usize = 16 << 10;
/// A connection whose commands are answered here lets others go on after this long.
const ANSWERING_TIME_MAX: Duration = Duration::from_millis(1);
/// The commands of one read keep the memory they were gathered in if they are longer than this.
const MOVED_BYTES_MIN: usize = 16 << 10;

/// Accepts connections, for ever.
pub(crate) async fn accept(node: Rc<Node>, listener: TcpListener) {
    net::accept_each(listener, &node.log, "clients", |socket, remote| admit(&node, socket, remote))
        .await;
}

fn admit(node: &Rc<Node>, socket: TcpStream, remote: SocketAddr) {
    let limits = &node.config.limits;
    net::tune_client(&socket, limits.keepalive_time);
    let Ok(local) = socket.local_addr() else { return };
    let (reader, writer) = socket.into_split();
    match node.clients.add((remote, local), writer, node.clock.mono()) {
        Ok(client) => {
            let connection =
                Connection { node: node.clone(), client, reader, is_recognized: false };
            tokio::task::spawn_local(connection.run());
        }
        Err(writer) => {
            count_up(&node.stats.rejected_connections, 1);
            node.stats.errors.count("ERR");
            let Ok(socket) = writer.reunite(reader) else { return };
            // One attempt, no waiting: whoever is too many gets no task.
            _ = socket.try_write(b"-ERR max number of clients reached\r\n");
        }
    }
}

struct Connection {
    node: Rc<Node>,
    client: Rc<Client>,
    reader: OwnedReadHalf,
    /// It is known that no peer has dialled the wrong port.
    is_recognized: bool,
}

/// The requests of one read, on their way to the replica. One for all connections, used again.
#[derive(Default)]
pub(crate) struct Batch {
    /// All commands, one after another.
    encoded: Vec<u8>,
    requests: Vec<Encoded>,
}

struct Encoded {
    seq: u64,
    class: Class,
    stale: bool,
    end: usize,
}

/// What a read leaves to do.
enum After {
    /// The kernel had no more.
    Wait,
    /// There is more to read, or to take: after the other connections.
    GoOn,
}

impl Connection {
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        if self.client.is_overfull.get() {
            count_up(&self.node.stats.overfull_clients, 1);
        }
        if self.client.ending() != Ending::Now {
            net::end_sending(self.client.socket());
            let linger = self.node.config.limits.linger_time;
            _ = tokio::time::timeout(linger, net::read_dry(&mut self.reader)).await;
        }
        self.node.clients.remove(&self.client);
        if self.client.awaits_piece.get() {
            self.node.backups.forget(self.client.id);
        }
        self.node.inbox.push(Input::ConnectionClosed(self.client.id));
    }

    /// Ready when the connection is over, except for the farewell.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.set_task(cx.waker());
        loop {
            let flushed = self.client.poll_flushed(cx);
            self.client.tell_if_full(&self.node.config.limits, &self.node.inbox);
            if self.client.ending() != Ending::No {
                intake::forget(&self.node, &self.client);
            }
            output::count(&self.node, &self.client);
            match self.client.ending() {
                Ending::Now => return Poll::Ready(()),
                Ending::AfterReplies if self.client.flow.borrow().waiting() > 0 => {
                    return Poll::Pending;
                }
                Ending::AfterReplies => return flushed,
                Ending::No => {}
            }
            if !self.may_read() {
                return Poll::Pending;
            }
            let has_unread = self.client.intake.borrow().has_unread;
            let after = if has_unread { self.take_unread() } else { ready!(self.poll_read(cx)) };
            if let After::GoOn = after {
                // Whoever wakes itself is polled some sixty times before any other socket is looked
                // at.
                _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
        }
    }

    fn may_read(&self) -> bool {
        let may = self.node.clients.may_read() && self.client.has_room(&self.node.config.limits);
        if !may {
            self.client.pause();
        }
        may
    }

    /// One read, and the requests in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<After> {
        let (node, client) = (self.node.clone(), self.client.clone());
        let mut intake = client.intake.borrow_mut();
        // Reads share one buffer, unless a long request is under way.
        let mut scratch = node.read_scratch.borrow_mut();
        let is_shared = intake.partial.len() <= PARTIAL_SHARED_BYTES_MAX;
        let announced = intake.parser.announced_bytes();
        let buffer = if is_shared {
            scratch.clear();
            scratch.extend_from_slice(&intake.partial);
            &mut *scratch
        } else {
            &mut intake.partial
        };
        let missing = announced.saturating_sub(buffer.len());
        let room = intake::make_room(buffer, missing, node.config.limits.read_bytes);
        let mut limited = (&mut *buffer).limit(room);
        let read = self.reader.read_buf(&mut limited);
        let count = match ready!(pin!(read).poll(cx)) {
            Ok(0) => {
                client.end(Ending::AfterReplies);
                return Poll::Ready(After::Wait);
            }
            Ok(count) => count,
            Err(_) => {
                client.end(Ending::Now);
                return Poll::Ready(After::Wait);
            }
        };
        client.read_at.set(node.coarse_time.get());
        count_up(&node.stats.input_bytes, count as u64);
        if is_shared {
            let taken = self.take_requests(&mut intake, &scratch);
            intake.keep(&scratch[taken..]);
        } else {
            self.take_partial(&mut intake);
        }
        let has_more = count == room || intake.has_unread;
        drop(intake);
        intake::count(&node, &client);
        output::count(&node, &client);
        Poll::Ready(if has_more { After::GoOn } else { After::Wait })
    }

    /// The requests that were left for want of room or time.
    fn take_unread(&mut self) -> After {
        let client = self.client.clone();
        let mut intake = client.intake.borrow_mut();
        self.take_partial(&mut intake);
        let has_more = intake.has_unread;
        drop(intake);
        intake::count(&self.node, &client);
        output::count(&self.node, &client);
        if has_more { After::GoOn } else { After::Wait }
    }

    fn take_partial(&mut self, intake: &mut Intake) {
        let partial = std::mem::take(&mut intake.partial);
        let taken = self.take_requests(intake, &partial);
        intake.partial = partial;
        intake.mark_taken(taken);
    }

    /// Takes whole requests from the front of the buffer, as many as there is room and time for;
    /// how many bytes they were.
    fn take_requests(&mut self, intake: &mut Intake, buffer: &[u8]) -> usize {
        intake.has_unread = false;
        self.client.awaits_answers.set(false);
        let node = self.node.clone();
        let limits = &node.config.limits;
        if !self.is_recognized {
            match is_from_peer(buffer) {
                None => return 0,
                Some(true) => {
                    self.refuse_peer();
                    return buffer.len();
                }
                Some(false) => self.is_recognized = true,
            }
        }
        let mut batch = node.batch.borrow_mut();
        let mut taken = 0;
        let (mut answering_since, mut is_late) = (None, false);
        while self.client.ending() == Ending::No {
            let rest = &buffer[taken..];
            if is_late || !self.client.has_room(limits) {
                intake.has_unread = !rest.is_empty();
                break;
            }
            let asked = batch.requests.len();
            match intake.parser.parse(rest) {
                Ok(Parsed::Complete { consumed }) => {
                    let is_taken =
                        execute(&node, &self.client, intake.parser.args(rest), &mut batch);
                    if !is_taken {
                        intake.has_unread = true;
                        break;
                    }
                    taken += consumed;
                }
                Ok(Parsed::Empty { consumed }) => taken += consumed,
                Ok(Parsed::Incomplete) => break,
                Err(error) => self.refuse(error),
            }
            if batch.requests.len() == asked {
                // The replica, which shares its time out, has nothing to do with it.
                let now = node.clock.mono();
                let since = *answering_since.get_or_insert(now);
                is_late = now.since(since) >= ANSWERING_TIME_MAX;
            }
        }
        intake.parser.forget();
        self.submit(&mut batch);
        taken
    }

    /// Hands the batch to the replica, and lets what needs no replica leave.
    fn submit(&self, batch: &mut Batch) {
        let node = &self.node;
        if batch.requests.is_empty() {
            // Nothing of this connection is under way: no turn would send it sooner.
            if self.client.flow.borrow().waiting() == 0 {
                self.client.flush(&node.config.limits, node.coarse_time.get());
            }
            return;
        }
        // A long command is not copied; short ones share memory that is as long as they are.
        let encoded = if batch.encoded.len() > MOVED_BYTES_MIN {
            Bytes::from(std::mem::take(&mut batch.encoded))
        } else {
            Bytes::copy_from_slice(&batch.encoded)
        };
        let mut start = 0;
        let requests = batch.requests.drain(..).map(|request| {
            let command = encoded.slice(start..request.end);
            start = request.end;
            Request { seq: request.seq, class: request.class, stale: request.stale, command }
        });
        let requests: Vec<Request> = requests.collect();
        batch.encoded.clear();
        count_up(&node.stats.commands, requests.len() as u64);
        // What stands before the first of them leaves with the next turn.
        if !self.client.flow.borrow().unsent().is_empty() {
            node.clients.mark(&self.client);
        }
        node.inbox.push(Input::Client { connection: self.client.id, requests });
        let (requests, bytes) = node.inbox.waiting();
        let options = &node.config.replica;
        // The replica sees them when all sockets that are ready have been read: there may be very
        // many.
        if requests >= options.requests_under_way_max || bytes >= options.requests_held_bytes_max {
            node.clients.set_congested(true);
        }
    }

    /// What follows cannot be read.
    fn refuse(&self, error: ProtocolError) {
        let mut text = Vec::new();
        error.write(&mut text);
        self.node.stats.errors.count("ERR");
        self.client.flow.borrow_mut().say(&text);
        self.client.end(Ending::AfterReplies);
    }

    fn refuse_peer(&self) {
        let port = self.node.peer_port;
        let text =
            format!("-ERR this port is for clients, Sampan nodes connect to port {port}\r\n");
        let client = &self.client;
        client.flow.borrow_mut().say(text.as_bytes());
        client.end(Ending::AfterReplies);
        client.flush(&self.node.config.limits, self.node.coarse_time.get());
    }
}

/// A line that a web page has a browser send, or a fetched address some server: what follows it, a
/// body with commands in it, perhaps, is not from a client. Redis closes such a connection, too.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn close_http(node: &Node, client: &Client) {
    count_up(&node.stats.http_requests, 1);
    let count = node.stats.http_requests.get();
    // Whoever sends many does not fill the log.
    if count.is_power_of_two() {
        node.log.warn(format_args!("HTTP request number {count}, from {}: closed", client.remote));
    }
    client.end(Ending::Now);
}

/// Answers one request, or adds it to the batch; false if it has to wait until those before it are
/// answered.
fn execute(node: &Node, client: &Client, args: Args<'_>, batch: &mut Batch) -> bool {
    let mut inline = [&[][..]; ARGUMENTS_INLINE];
    let spilled: Vec<&[u8]>;
    let argv = if let Some(inline) = inline.get_mut(..args.len()) {
        inline.iter_mut().zip(args.iter()).for_each(|(place, arg)| *place = arg);
        &*inline
    } else {
        spilled = args.iter().collect();
        &spilled
    };
    let Some(name) = argv.first() else { return true };
    if client.refuses_all.get() && transactions::refuse(node, client, argv) {
        return true;
    }
    if let Some(command) = commands::find(name) {
        if client.flow.borrow().waiting() > 0 && command.is_of_state() {
            client.awaits_answers.set(true);
            return false;
        }
        count_up(&node.stats.commands, 1);
        commands::run(command, node, client, argv);
        return true;
    }
    let start = batch.encoded.len();
    match sampan_kv::parse(argv, &node.config.replica.kv, &mut batch.encoded) {
        Ok(class) => {
            let mut profile = client.profile.borrow_mut();
            if batch.requests.is_empty() {
                profile.last_command = sampan_kv::find(name).map_or("", |spec| spec.name);
            }
            let encoded = &batch.encoded[start..];
            let stale =
                profile.is_readonly && class != Class::Write && sampan_kv::may_be_stale(encoded);
            let values = sampan_kv::values_in_reply(encoded);
            let kv = &node.config.replica.kv;
            let worst_bytes = values.saturating_mul(kv.value_bytes_max).min(kv.reply_bytes_max);
            let rendering = profile.rendering();
            let command_bytes = encoded.len();
            let mut flow = client.flow.borrow_mut();
            let seq = flow.expect(rendering, command_bytes, values, worst_bytes);
            batch.requests.push(Encoded { seq, class, stale, end: batch.encoded.len() });
        }
        Err(_) if transactions::begin(node, client, argv) => batch.encoded.truncate(start),
        Err(_) if is_http(name) => {
            batch.encoded.truncate(start);
            close_http(node, client);
        }
        Err(error) => {
            batch.encoded.truncate(start);
            count_up(&node.stats.commands, 1);
            commands::say_error(node, client, &error.to_string());
        }
    }
    true
}
