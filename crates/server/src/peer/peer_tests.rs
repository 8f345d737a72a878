use std::time::{Duration, Instant};

use bytes::Bytes;
use sampan_base::{ClusterId, Entry, EntryKind, LogIndex, Term};
use sampan_kv::{Class, Reply};
use sampan_replica::wire::{
    FRAME_HEADER_BYTES, Forward, ForwardOutcome, ForwardReply, ForwardedRequest, Held, Outcome,
    PeerMessage, decode_frame, decode_frame_header, encode_frame,
};
use sampan_replica::{ConnectionId, Input, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::handshake::{Hello, Verdict, Welcome};
use super::*;
use crate::net;
use crate::state_settings;
use crate::testing::{on_loop, until};

const CLUSTER: ClusterId = ClusterId(7);

/// One side of a link, with what it has received.
struct Side {
    id: NodeId,
    peers: Rc<Peers>,
    inbox: Rc<Inbox>,
    listener: RefCell<Option<TcpListener>>,
    seen: RefCell<Vec<String>>,
    port: u16,
}

/// Nodes 1 and 2, which know each other; nothing runs yet.
fn two_sides(limits: &Limits) -> (Side, Side) {
    let listeners = [1, 2].map(|_| {
        let bound = net::bind("test", &HostPort::new("127.0.0.1", 0)).unwrap();
        net::adopt(bound, 16).unwrap()
    });
    let ports = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().port());
    let [first, second] = listeners;
    (side(1, 2, ports, limits, first), side(2, 1, [ports[1], ports[0]], limits, second))
}

fn side(id: u64, other: u64, ports: [u16; 2], limits: &Limits, listener: TcpListener) -> Side {
    let listen = HostPort::new("127.0.0.1", 0);
    let mut config = Config::new(CLUSTER, NodeId::of(id), listen, "unused").unwrap();
    config.limits = limits.clone();
    config.peers.insert(NodeId::of(other), HostPort::new("127.0.0.1", ports[1]));
    let inbox = Rc::new(Inbox::default());
    let log = Log::quiet(config.node);
    let client_port = 7000 + id as u16;
    let peers = Rc::new(Peers::new(&config, client_port, inbox.clone(), log, id));
    let (listener, seen) = (RefCell::new(Some(listener)), RefCell::default());
    Side { id: config.node, peers, inbox, listener, seen, port: ports[0] }
}

impl Side {
    fn start(&self) {
        self.peers.start(self.listener.take().unwrap());
    }

    /// Has this arrived, in words?
    fn has(&self, wanted: &str) -> bool {
        self.count(wanted) > 0
    }

    fn count(&self, wanted: &str) -> usize {
        let mut inputs = Vec::new();
        self.inbox.take(&mut inputs);
        let mut seen = self.seen.borrow_mut();
        seen.extend(inputs.iter().map(|input| match input {
            Input::PeerConnected(peer) => format!("up {peer}"),
            Input::PeerDisconnected(peer) => format!("down {peer}"),
            Input::PeerUnreachable(peer) => format!("not reached {peer}"),
            Input::ForwardNotSent { to, frame_seq } => format!("{frame_seq} to {to} not sent"),
            Input::Peer { from, message: PeerMessage::Held(held) } => {
                format!("{} from {from}", held.through)
            }
            other => format!("{other:?}"),
        }));
        seen.iter().filter(|text| *text == wanted).count()
    }

    fn send(&self, to: NodeId, stream: Stream, number: u64, size: usize) {
        self.peers.send(&Envelope { to, stream, message: message(number, size) });
        self.peers.flush();
    }

    fn forward(&self, to: NodeId, frame_seq: u64, size: usize) {
        let message = forward(frame_seq, size);
        self.peers.send(&Envelope { to, stream: Stream::Main, message });
        self.peers.flush();
    }

    /// Accepts both connections of another node, by hand, and reads nothing more of them.
    async fn accept(&self) -> Vec<(Stream, TcpStream)> {
        let listener = self.listener.take().unwrap();
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let hello = Hello::read(&mut socket).await.unwrap();
            let welcome = Welcome {
                verdict: Verdict::Accepted,
                cluster: CLUSTER,
                node: self.id,
                client_address: HostPort::new("", 1),
            };
            socket.write_all(&welcome.encode()).await.unwrap();
            sockets.push((hello.stream, socket));
        }
        sockets
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Connects as a peer of this node would.
    async fn connect_as(&self, from: NodeId, stream: Stream) -> TcpStream {
        let mut socket = self.connect().await;
        let hello = hello(CLUSTER, from, self.id, stream);
        socket.write_all(&hello.encode()).await.unwrap();
        let welcome = Welcome::read(&mut socket, &hello).await.unwrap();
        assert_eq!(welcome.client_address, HostPort::new("", 7000 + self.id.get() as u16));
        socket
    }
}

fn message(number: u64, size: usize) -> PeerMessage {
    let (term, index, kind) = (Term(1), LogIndex(number), EntryKind::Command);
    let entries = vec![Entry { term, index, kind, data: vec![b'x'; size].into() }];
    PeerMessage::Held(Held { first: index, through: index, entries })
}

fn forward(frame_seq: u64, size: usize) -> PeerMessage {
    let (id, connection, command) = (frame_seq, ConnectionId(1), vec![b'x'; size].into());
    let requests = vec![ForwardedRequest { id, connection, class: Class::Write, command }];
    PeerMessage::Forward(Forward { incarnation: 1, term: Term(1), frame_seq, requests })
}

fn hello(cluster: ClusterId, from: NodeId, to: NodeId, stream: Stream) -> Hello {
    let settings = state_settings::values(&sampan_replica::Options::new(from).of_state());
    Hello { cluster, from, to, stream, client_address: HostPort::new("", 7001), settings }
}

fn frame(cluster: ClusterId, from: u64, to: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_frame(cluster, NodeId::of(from), NodeId::of(to), &message(number, 10), &mut bytes);
    bytes
}

async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut bytes));
    read.await.expect("the connection is closed").unwrap();
    bytes
}

#[test]
fn two_nodes_find_each_other_and_messages_arrive_on_both_streams() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        two.start();
        until("both are up", || one.has("up n2") && two.has("up n1")).await;
        let bulk_up = || one.peers.link(two.id, Stream::Bulk).unwrap().is_connected();
        until("the bulk stream is up", bulk_up).await;
        one.send(two.id, Stream::Main, 5, 1);
        one.send(two.id, Stream::Bulk, 6, 1 << 20);
        two.send(one.id, Stream::Main, 7, 0);
        until("all have arrived", || {
            two.has("5 from n1") && two.has("6 from n1") && one.has("7 from n2")
        })
        .await;
        assert_eq!(one.peers.client_address(two.id), Some(HostPort::new("127.0.0.1", 7002)));
        assert!(one.peers.is_connected(two.id));
    });
}

#[test]
fn a_node_that_is_not_told_of_has_the_client_port_below_its_peer_port() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        let expected = HostPort::new("127.0.0.1", two.port.saturating_sub(10_000));
        assert_eq!(one.peers.client_address(two.id), Some(expected));
        assert_eq!(one.peers.client_address(NodeId::of(9)), None);
    });
}

#[test]
fn a_lost_connection_is_reported_at_once_and_dialled_again() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        until("two is dialled", || two.listener.borrow().is_some()).await;
        let listener = two.listener.take().unwrap();
        // Node 2 by hand: accepts one connection of each stream, and closes them.
        for round in 1..=2 {
            let mut held = Vec::new();
            while held.len() < 2 {
                let (mut socket, _) = listener.accept().await.unwrap();
                let hello = Hello::read(&mut socket).await.unwrap();
                assert_eq!((hello.from, hello.to), (one.id, two.id));
                welcome(&mut socket, two.id).await;
                held.push(socket);
            }
            let bulk = one.peers.link(two.id, Stream::Bulk).unwrap();
            let both = || one.peers.is_connected(two.id) && bulk.is_connected();
            until("both streams are up", both).await;
            assert!(one.count("up n2") >= round);
            assert_eq!(one.count("not reached n2"), round, "before it is dialled");
            drop(held);
            until("it is down", || one.count("down n2") == round).await;
            until("it is not reached", || one.count("not reached n2") == round + 1).await;
        }
        assert_eq!(one.peers.client_address(two.id), Some(HostPort::new("elsewhere", 1)));
    });
}

/// What a node says by hand to one that it lets in.
async fn welcome(socket: &mut TcpStream, id: NodeId) {
    let client_address = HostPort::new("elsewhere", 1);
    let welcome =
        Welcome { verdict: Verdict::Accepted, cluster: CLUSTER, node: id, client_address };
    socket.write_all(&welcome.encode()).await.unwrap();
}

#[test]
fn a_peer_that_takes_nothing_but_bulk_is_not_reached() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let listener = two.listener.take().unwrap();
        let mut held = Vec::new();
        while one.count("not reached n2") < 3 {
            let (mut socket, _) = listener.accept().await.unwrap();
            if Hello::read(&mut socket).await.unwrap().stream == Stream::Bulk {
                welcome(&mut socket, two.id).await;
                held.push(socket);
            }
        }
        let bulk = one.peers.link(two.id, Stream::Bulk).unwrap();
        until("the bulk stream is up", || bulk.is_connected()).await;
        assert_eq!(one.count("up n2"), 0);
    });
}

#[test]
fn a_peer_that_dials_is_dialled_back_at_once() {
    /// Less than the shortest pause after a failure, which is half of the wait.
    const PATIENCE: Duration = Duration::from_secs(20);
    on_loop(async {
        let wait = Duration::from_secs(3_600);
        let limits = Limits { redial_time_min: wait, redial_time_max: wait, ..Limits::default() };
        let (one, two) = two_sides(&limits);
        one.start();
        let listener = two.listener.take().unwrap();
        let both_streams = || async {
            for _ in [Stream::Main, Stream::Bulk] {
                let dialled = tokio::time::timeout(PATIENCE, listener.accept()).await;
                // It ends before the handshake: one fails, and waits.
                drop(dialled.expect("node 1 dials").unwrap());
            }
        };
        both_streams().await;
        let _held = one.connect_as(two.id, Stream::Main).await;
        both_streams().await;
    });
}

#[test]
fn the_end_of_an_inbound_main_stream_is_reported_and_of_a_bulk_stream_not() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        drop(one.connect_as(two.id, Stream::Bulk).await);
        let mut main = one.connect_as(two.id, Stream::Main).await;
        main.write_all(&frame(CLUSTER, 2, 1, 5)).await.unwrap();
        until("the frame has arrived", || one.has("5 from n2")).await;
        assert!(!one.has("down n2"));
        drop(main);
        until("the end is reported", || one.has("down n2")).await;
    });
}

#[test]
fn a_peer_that_dials_anew_replaces_its_old_connection_without_a_report() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let mut old = one.connect_as(two.id, Stream::Main).await;
        let mut new = one.connect_as(two.id, Stream::Main).await;
        assert_eq!(read_all(&mut old).await, b"");
        new.write_all(&frame(CLUSTER, 2, 1, 5)).await.unwrap();
        until("the frame has arrived", || one.has("5 from n2")).await;
        assert!(!one.has("down n2"));
    });
}

#[test]
fn strangers_are_refused_by_name() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let n9 = NodeId::of(9);
        for (hello, why) in [
            (hello(ClusterId(8), two.id, one.id, Stream::Main), "it belongs to cluster"),
            (hello(CLUSTER, two.id, n9, Stream::Main), "it is n1"),
            (hello(CLUSTER, n9, one.id, Stream::Main), "n1 was not told of this node"),
            (
                Hello { settings: vec![1], ..hello(CLUSTER, two.id, one.id, Stream::Main) },
                "n1 has other settings of the group State",
            ),
        ] {
            let mut socket = one.connect().await;
            socket.write_all(&hello.encode()).await.unwrap();
            let error = Welcome::read(&mut socket, &hello).await.unwrap_err();
            assert!(error.to_string().starts_with(why), "{error}");
            assert_eq!(read_all(&mut socket).await, b"");
        }
        assert_eq!(one.peers.counters.handshakes_failed.get(), 4);
    });
}

#[test]
fn a_client_on_the_peer_port_gets_one_clear_error_and_a_close() {
    on_loop(async {
        let (one, _two) = two_sides(&Limits::default());
        one.start();
        let mut socket = one.connect().await;
        socket.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        let reply = String::from_utf8(read_all(&mut socket).await).unwrap();
        assert_eq!(reply, "-ERR this port is for Sampan nodes, clients connect to port 7001\r\n");
    });
}

#[test]
fn frames_for_others_are_dropped_and_the_stream_lives() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let mut socket = one.connect_as(two.id, Stream::Main).await;
        let frames = [
            frame(ClusterId(8), 2, 1, 1),
            frame(CLUSTER, 3, 1, 2),
            frame(CLUSTER, 2, 3, 3),
            frame(CLUSTER, 2, 1, 4),
        ];
        socket.write_all(&frames.concat()).await.unwrap();
        until("the good one has arrived", || one.has("4 from n2")).await;
        assert_eq!(one.peers.counters.dropped_misdirected.get(), 3);
        let taken = one.seen.borrow().iter().filter(|text| text.contains("from")).count();
        assert_eq!(taken, 1);
    });
}

#[test]
fn a_damaged_frame_ends_the_connection_and_nothing_of_it_is_taken() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let good = frame(CLUSTER, 2, 1, 4);
        for place in [0, 4, 20, good.len() - 1] {
            let mut socket = one.connect_as(two.id, Stream::Bulk).await;
            let mut bad = good.clone();
            bad[place] ^= 0x80;
            socket.write_all(&[good.clone(), bad].concat()).await.unwrap();
            // A length that is damaged may announce a long frame: its end decides then.
            socket.shutdown().await.unwrap();
            assert_eq!(read_all(&mut socket).await, b"", "byte {place}");
        }
        assert_eq!(one.count("4 from n2"), 4);
        assert!(one.peers.counters.broken_frames.get() >= 3);
    });
}

#[test]
fn a_length_that_is_damaged_does_not_swallow_all_that_follows() {
    on_loop(async {
        let peer_frame_time = Duration::from_millis(50);
        let (one, two) = two_sides(&Limits { peer_frame_time, ..Limits::default() });
        one.start();
        for (stream, byte) in [(Stream::Main, 5), (Stream::Main, 6), (Stream::Bulk, 7)] {
            let mut socket = one.connect_as(two.id, stream).await;
            let mut bad = frame(CLUSTER, 2, 1, 4);
            bad[byte] |= 0x04;
            socket.write_all(&bad).await.unwrap();
            // Seconds of heartbeats, which the announced frame would take in for hours.
            let begin = Instant::now();
            let closed = async {
                while socket.write_all(&frame(CLUSTER, 2, 1, 5)[..8]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), closed).await.expect("it is closed");
            assert!(begin.elapsed() >= peer_frame_time, "byte {byte}");
        }
        assert_eq!(one.count("down n2"), 2);
        assert_eq!(one.peers.counters.broken_frames.get(), 3);
        assert!(!one.has("4 from n2") && !one.has("5 from n2"));
    });
}

#[test]
fn frames_may_come_for_longer_than_one_may_take() {
    on_loop(async {
        let peer_frame_time = Duration::from_millis(200);
        let (one, two) = two_sides(&Limits { peer_frame_time, ..Limits::default() });
        one.start();
        let mut socket = one.connect_as(two.id, Stream::Main).await;
        socket.set_nodelay(true).unwrap();
        // Cut so that after each piece another frame has begun, and after the last one none.
        let stream: Vec<u8> = (1..=20).flat_map(|number| frame(CLUSTER, 2, 1, number)).collect();
        for piece in stream.chunks(stream.len() / 20 + 1) {
            socket.write_all(piece).await.unwrap();
            tokio::time::sleep(peer_frame_time / 10).await;
        }
        until("all have arrived", || one.has("20 from n2")).await;
        // Between frames there is no limit.
        tokio::time::sleep(2 * peer_frame_time).await;
        socket.write_all(&frame(CLUSTER, 2, 1, 21)).await.unwrap();
        until("it has arrived", || one.has("21 from n2")).await;
        assert_eq!(one.peers.counters.broken_frames.get(), 0);
    });
}

#[test]
fn frames_arrive_however_they_are_cut() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let mut socket = one.connect_as(two.id, Stream::Main).await;
        socket.set_nodelay(true).unwrap();
        for byte in [frame(CLUSTER, 2, 1, 1), frame(CLUSTER, 2, 1, 2)].concat() {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        until("both have arrived", || one.has("1 from n2") && one.has("2 from n2")).await;
    });
}

#[test]
fn a_queue_that_is_full_drops_and_what_was_queued_arrives() {
    on_loop(async {
        let limits = Limits { peer_queue_bytes_max: 64 << 10, ..Limits::default() };
        let (one, two) = two_sides(&limits);
        one.start();
        let mut sockets = two.accept().await;
        until("it is up", || one.has("up n2")).await;
        let dropped = &one.peers.counters.dropped_queue_full;
        let mut sent = 0;
        while dropped.get() == 0 {
            one.send(two.id, Stream::Main, sent, 10_000);
            sent += 1;
            assert!(sent < 100_000, "nothing is ever dropped");
        }
        // Only of a forward is that said: it is not sent again of itself.
        one.forward(two.id, 7, 10_000);
        assert!(dropped.get() == 2 && one.has("7 to n2 not sent"));
        let taken = one.peers.counters.bytes_sent.get();
        let main = sockets.iter_mut().find(|(stream, _)| *stream == Stream::Main).unwrap();
        assert!(one.peers.queued_bytes() <= limits.peer_queue_bytes_max);
        let mut read = vec![0; taken as usize];
        let all = tokio::time::timeout(Duration::from_secs(10), main.1.read_exact(&mut read));
        all.await.expect("all that was queued arrives").unwrap();
        let mut rest = Bytes::from(read);
        for number in 0..sent - 1 {
            let header = decode_frame_header(&rest).unwrap().unwrap();
            let frame = rest.split_to(FRAME_HEADER_BYTES + header.payload_bytes);
            assert_eq!(decode_frame(&frame).unwrap().1, message(number, 10_000));
        }
        assert_eq!(rest.len(), 0);
        // An outcome is never dropped: nobody would say it again.
        let outcome = Outcome::Answered(Reply::bulk(&[b'x'; 10_000]), LogIndex::ZERO);
        let outcomes = vec![ForwardOutcome { id: 1, outcome }];
        let message = PeerMessage::ForwardReply(ForwardReply { incarnation: 1, outcomes });
        let (before, sent_before) = (dropped.get(), one.peers.counters.frames_sent.get());
        for _ in 0..1_000 {
            let (to, stream, message) = (two.id, Stream::Main, message.clone());
            one.peers.send(&Envelope { to, stream, message });
        }
        // Nor do they take the room of other messages.
        one.send(two.id, Stream::Main, sent, 10_000);
        let sent_frames = one.peers.counters.frames_sent.get() - sent_before;
        assert_eq!((dropped.get(), sent_frames), (before, 1_001));
        let more = one.peers.counters.bytes_sent.get() - taken;
        let mut read = vec![0; more as usize];
        let all = tokio::time::timeout(Duration::from_secs(10), main.1.read_exact(&mut read));
        all.await.expect("all of them arrive").unwrap();
        // A frame longer than the limit leaves alone.
        let before = dropped.get();
        one.send(two.id, Stream::Main, sent, 100_000);
        assert_eq!(dropped.get(), before);
    });
}

#[test]
fn without_a_connection_messages_are_dropped_and_counted() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        for to in [two.id, NodeId::of(9)] {
            one.send(to, Stream::Main, 1, 1);
            one.forward(to, 5, 1);
            assert!(one.has(&format!("5 to {to} not sent")));
        }
        assert_eq!(one.seen.borrow().len(), 2);
        assert_eq!(one.peers.counters.dropped_unconnected.get(), 2);
        assert_eq!(one.peers.counters.dropped_misdirected.get(), 2);
    });
}

#[test]
fn of_a_lost_connection_it_is_known_which_forwards_no_byte_has_left_of() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        one.start();
        let sockets = two.accept().await;
        until("it is up", || one.has("up n2")).await;
        one.forward(two.id, 1, 1);
        assert_eq!(one.peers.queued_bytes(), 0, "the kernel has it");
        // More than the kernel takes.
        let long = 24 << 20;
        one.forward(two.id, 2, long);
        let queued = one.peers.queued_bytes();
        assert!(0 < queued && queued < long, "{queued} bytes are left");
        one.forward(two.id, 3, 1);
        one.forward(two.id, 4, 1);
        drop(sockets);
        until("the connection is lost", || one.has("down n2")).await;
        let seen = one.seen.borrow();
        let about = seen.iter().filter(|text| text.ends_with("not sent") || *text == "down n2");
        let about: Vec<&String> = about.collect();
        assert_eq!(about, ["3 to n2 not sent", "4 to n2 not sent", "down n2"]);
    });
}

#[test]
fn silent_strangers_are_few_and_do_not_stay() {
    on_loop(async {
        let handshake_time = Duration::from_secs(60);
        let limits = Limits { handshakes_max: 2, handshake_time, ..Limits::default() };
        let (one, two) = two_sides(&limits);
        one.start();
        let silent = [one.connect().await, one.connect().await];
        until("both are in", || one.peers.handshakes.get() == 2).await;
        assert_eq!(read_all(&mut one.connect().await).await, b"");
        drop(silent);
        until("both are out", || one.peers.handshakes.get() == 0).await;
        drop(one.connect_as(two.id, Stream::Main).await);

        let (one, _two) = two_sides(&Limits::tiny());
        one.start();
        let mut silent = one.connect().await;
        assert_eq!(read_all(&mut silent).await, b"", "its time is over");
    });
}

#[test]
fn whoever_is_told_why_it_is_refused_counts_until_it_has_gone() {
    on_loop(async {
        let linger_time = Duration::from_secs(60);
        let limits = Limits { handshakes_max: 1, linger_time, ..Limits::default() };
        let (one, _two) = two_sides(&limits);
        one.start();
        let mut client = one.connect().await;
        client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        assert!(read_all(&mut client).await.starts_with(b"-ERR"));
        assert_eq!(one.peers.handshakes.get(), 1);
        assert_eq!(read_all(&mut one.connect().await).await, b"");
        drop(client);
        until("it has gone", || one.peers.handshakes.get() == 0).await;
    });
}

#[test]
fn strangers_get_one_line_in_a_second() {
    on_loop(async {
        let (one, two) = two_sides(&Limits::default());
        // Without the links, which have lines of their own.
        let listener = one.listener.take().unwrap();
        tokio::task::spawn_local(inbound::accept(one.peers.clone(), listener));
        let began = Instant::now();
        for _ in 0..20 {
            let hello = hello(ClusterId(8), two.id, one.id, Stream::Main);
            let mut socket = one.connect().await;
            socket.write_all(&hello.encode()).await.unwrap();
            Welcome::read(&mut socket, &hello).await.unwrap_err();
        }
        assert_eq!(one.peers.counters.handshakes_failed.get(), 20);
        // A log that nobody writes counts its lines as dropped.
        let (lines, seconds) = (one.peers.log.dropped(), began.elapsed().as_secs());
        assert!((1..=seconds + 1).contains(&lines), "{lines} lines in {seconds} s");
    });
}
