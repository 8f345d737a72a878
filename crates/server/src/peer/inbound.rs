//! The receiving side: connections that peers dialled.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sampan_base::NodeId;
use sampan_base::codec::DecodeError;
use sampan_replica::wire::decode_frame;
use sampan_replica::{Input, Stream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::Peers;
use super::frames::Frames;
use super::handshake::{HandshakeError, Hello, Verdict, Welcome};
use crate::background;
use crate::net;
use crate::state_settings;
use crate::stats::count_up;

/// Of the lines in the log about who was refused there is one in this time at most.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// When there was a line in the log about who was refused.
#[derive(Default)]
struct LastLine(Cell<Option<Instant>>);

impl LastLine {
    /// Takes the turn of another one, if it is time for it.
    fn take_turn(&self) -> bool {
        let is_long_ago = self.0.get().is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if is_long_ago {
            self.0.set(Some(Instant::now()));
        }
        is_long_ago
    }
}

/// Accepts connections, for ever.
pub(super) async fn accept(peers: Rc<Peers>, listener: TcpListener) {
    let refused = Rc::new(LastLine::default());
    net::accept_each(listener, &peers.log, "peers", |socket, _| {
        // Too many strangers at once: this one may come again.
        if peers.handshakes.get() < peers.limits.handshakes_max {
            peers.handshakes.set(peers.handshakes.get() + 1);
            tokio::task::spawn_local(serve(peers.clone(), refused.clone(), socket));
        }
    })
    .await;
}

async fn serve(peers: Rc<Peers>, refused: Rc<LastLine>, mut socket: TcpStream) {
    net::tune_peer(&socket, peers.limits.peer_ack_time);
    let shaken = greet(&peers, &refused, &mut socket);
    let shaken = tokio::time::timeout(peers.limits.handshake_time, shaken);
    let shaken = shaken.await.unwrap_or(Err(HandshakeError::TimedOut));
    match shaken {
        Ok(hello) => {
            let key = (hello.from, hello.stream);
            let task = tokio::task::spawn_local(receive(peers.clone(), socket, key));
            // A peer that dials anew has given up the connection it had.
            let old = peers.inbound.borrow_mut().insert(key, task.abort_handle());
            old.inspect(AbortHandle::abort);
            peers.is_there(hello.from);
        }
        Err(error) => refuse(&peers, &refused, socket, &error).await,
    }
    // Not before: who is told why it is refused has a connection until it has heard.
    peers.handshakes.set(peers.handshakes.get() - 1);
}

/// Reads who is there and says whether it may come in.
async fn greet(
    peers: &Peers,
    refused: &LastLine,
    socket: &mut TcpStream,
) -> Result<Hello, HandshakeError> {
    let hello = Hello::read(socket).await?;
    let me = peers.identity;
    let verdict = if hello.cluster != me.cluster {
        Verdict::OtherCluster
    } else if hello.to != me.node {
        Verdict::OtherNode
    } else if !peers.by_id.contains_key(&hello.from) {
        Verdict::UnknownNode
    } else if hello.settings != state_settings::values(&peers.state_settings) {
        Verdict::OtherSettings
    } else {
        Verdict::Accepted
    };
    let welcome = welcome(peers, verdict);
    if verdict != Verdict::Accepted {
        if refused.take_turn() {
            peers.log.warn(format_args!(
                "refused {} of cluster {}: {}",
                hello.from,
                hello.cluster,
                match verdict {
                    Verdict::OtherCluster => format!("this is cluster {}", me.cluster),
                    Verdict::OtherNode => format!("it looks for {}, this is {}", hello.to, me.node),
                    Verdict::OtherSettings => format!(
                        "settings of the group State must be the same on all nodes: {}",
                        state_settings::difference(&peers.state_settings, &hello.settings)
                            .unwrap_or_default()
                    ),
                    _ => "no --peer names it".to_owned(),
                }
            ));
        }
        return Err(HandshakeError::Refused(super::handshake::Refusal(welcome)));
    }
    socket.write_all(&welcome.encode()).await?;
    peers.told_client_address(hello.from, hello.client_address.clone());
    Ok(hello)
}

fn welcome(peers: &Peers, verdict: Verdict) -> Welcome {
    Welcome {
        verdict,
        cluster: peers.identity.cluster,
        node: peers.identity.node,
        client_address: peers.advertised.clone(),
    }
}

/// Says why, in a way that whoever is there understands.
async fn refuse(peers: &Peers, refused: &LastLine, socket: TcpStream, error: &HandshakeError) {
    count_up(&peers.counters.handshakes_failed, 1);
    let answer = match error {
        HandshakeError::NotAPeer(_) => {
            let port = peers.advertised.port;
            format!("-ERR this port is for Sampan nodes, clients connect to port {port}\r\n").into()
        }
        HandshakeError::Version(_) => {
            if let Ok(address) = socket.peer_addr()
                && refused.take_turn()
            {
                peers.log.warn(format_args!("refused a node at {address}: {error}"));
            }
            welcome(peers, Verdict::OtherVersion).encode()
        }
        HandshakeError::Refused(refusal) => refusal.0.encode(),
        HandshakeError::Malformed(_) | HandshakeError::Io(_) | HandshakeError::TimedOut => return,
    };
    net::say_and_close(socket, &answer, peers.limits.linger_time).await;
}

/// Takes frames until the connection ends.
async fn receive(peers: Rc<Peers>, mut socket: TcpStream, key: (NodeId, Stream)) {
    let mut frames = Frames::new();
    // When the first bytes came of the frame that is not whole.
    let mut begun = Instant::now();
    loop {
        let is_continued = frames.is_amid();
        match frames.read(&mut socket).await {
            Ok(0) | Err(_) => break,
            Ok(read_bytes) => count_up(&peers.counters.bytes_received, read_bytes as u64),
        }
        if key.1 == Stream::Bulk {
            // A snapshot comes as fast as this node can take it.
            background::give_way();
        }
        let problem = match take_frames(&peers, key.0, &mut frames) {
            // A length that is damaged makes all that follows a part of its frame, heartbeats too:
            // that the checksum is wrong would come out when as much has arrived. A look after each
            // read is enough, for of a connection that says nothing more nothing gets lost.
            Ok(0) if is_continued => {
                let limit = peers.limits.peer_frame_time;
                if begun.elapsed() <= limit {
                    continue;
                }
                format!(
                    "it has not ended after {} ms: damaged, or a link too slow for --peer-frame-ms",
                    limit.as_millis()
                )
            }
            Ok(_) => {
                begun = Instant::now();
                if key.1 == Stream::Bulk {
                    // The turn of the replica loads it, before the next one comes.
                    tokio::task::yield_now().await;
                }
                continue;
            }
            Err(error) => error.to_string(),
        };
        count_up(&peers.counters.broken_frames, 1);
        peers.log.warn(format_args!("broken frame from {}: {problem}", key.0));
        break;
    }
    // Not reached when a newer connection of this peer has replaced this one.
    peers.inbound.borrow_mut().remove(&key);
    if key.1 == Stream::Main {
        peers.inbox.push(Input::PeerDisconnected(key.0));
    }
}

/// Takes all that are whole, and says how many.
fn take_frames(peers: &Peers, from: NodeId, frames: &mut Frames) -> Result<usize, DecodeError> {
    let mut taken = 0;
    while let Some(frame) = frames.next()? {
        take_frame(peers, from, &frame)?;
        taken += 1;
    }
    Ok(taken)
}

fn take_frame(peers: &Peers, from: NodeId, frame: &Bytes) -> Result<(), DecodeError> {
    let (header, message) = decode_frame(frame)?;
    let me = peers.identity;
    if header.cluster != me.cluster || header.to != me.node || header.from != from {
        count_up(&peers.counters.dropped_misdirected, 1);
        return Ok(());
    }
    count_up(&peers.counters.frames_received, 1);
    peers.inbox.push(Input::Peer { from, message });
    Ok(())
}
