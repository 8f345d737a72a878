//! The time in which a node loads its data and takes no turns yet: clients that come then are told
//! so, and go to another node, instead of waiting for as long as it takes.
//!
//! What it is not: the time in which a log is repaired, which is `repair.rs`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A load this short is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked for clients.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who is turned away may take so long to go.
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(1);
/// So many may do so at a time.
pub(crate) const LEAVING_MAX: usize = 64;

const LOADING: &[u8] = b"-LOADING this node loads its data, ask another one or try again\r\n";

/// Turns clients away until it is dropped.
pub(crate) struct Loading {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Loading {
    /// From so long after now on, clients of this listener are turned away.
    pub(crate) fn begin(clients: &TcpListener, patience: Duration) -> io::Result<Self> {
        let clients = clients.try_clone()?;
        clients.set_nonblocking(true)?;
        let (over, ends) = mpsc::channel();
        let look = move || {
            let (mut wait, mut leaving) = (patience, VecDeque::new());
            while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(wait) {
                wait = LOOK_EVERY;
                turn_away(&clients, &ends, &mut leaving);
                leaving.retain_mut(Leaving::is_there);
            }
        };
        let thread = thread::Builder::new().name("loading".into()).spawn(look)?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.over = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

/// A client that was told to go. It is read dry until it does: to close a connection with unread
/// bytes would take back what it was told (RFC 9293, 3.10.4).
struct Leaving {
    client: TcpStream,
    until: Instant,
}

impl Leaving {
    /// Tells it. Whoever does not take that has gone.
    fn begin(mut client: TcpStream) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        client.write_all(LOADING)?;
        client.shutdown(Shutdown::Write)?;
        Ok(Self { client, until: Instant::now() + LINGER_TIME })
    }

    /// Is it still there, and may it be? Takes what it says, but not for as long as it does.
    fn is_there(&mut self) -> bool {
        let mut scratch = [0; 16 << 10];
        let has_gone = match self.client.read(&mut scratch) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        !has_gone && Instant::now() < self.until
    }
}

/// Those who wait, but none any more when it is over: who is turned away may come again at once,
/// and the node would wait for as long as they do.
fn turn_away(clients: &TcpListener, ends: &Receiver<()>, leaving: &mut VecDeque<Leaving>) {
    while let Err(TryRecvError::Empty) = ends.try_recv()
        && let Ok((client, _)) = clients.accept()
    {
        // What it has said already is read now: there may be no place for it in a moment.
        let begun = Leaving::begin(client).ok();
        let Some(there) = begun.and_then(|mut client| client.is_there().then_some(client)) else {
            continue;
        };
        if leaving.len() >= LEAVING_MAX {
            // Who has had the longest goes first.
            leaving.pop_front();
        }
        leaving.push_back(there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_said_something_hears_it_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"PING\r\n").unwrap();
        let (_over, ends) = mpsc::channel();
        listener.set_nonblocking(true).unwrap();
        let mut leaving = VecDeque::new();
        turn_away(&listener, &ends, &mut leaving);
        leaving.retain_mut(Leaving::is_there);
        assert_eq!(leaving.len(), 1, "it may not have read it yet");
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert_eq!(said, LOADING);
        drop(client);
        let deadline = Instant::now() + 10 * LINGER_TIME;
        while !leaving.is_empty() {
            leaving.retain_mut(Leaving::is_there);
            assert!(Instant::now() < deadline, "it is kept");
        }
    }

    #[test]
    fn more_than_there_are_places_for_are_not_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = std::iter::repeat_with(|| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"PING\r\n").unwrap();
            client
        })
        .take(2 * LEAVING_MAX)
        .collect();
        let (_over, ends) = mpsc::channel();
        listener.set_nonblocking(true).unwrap();
        let mut leaving = VecDeque::new();
        turn_away(&listener, &ends, &mut leaving);
        assert_eq!(leaving.len(), LEAVING_MAX);
        for mut client in clients {
            let mut said = Vec::new();
            client.read_to_end(&mut said).unwrap();
            assert_eq!(said, LOADING);
        }
    }

    #[test]
    fn clients_are_turned_away_while_it_lasts_and_then_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let loading = Loading::begin(&listener, Duration::ZERO).unwrap();
        for _ in 0..3 {
            let mut said = Vec::new();
            TcpStream::connect(address).unwrap().read_to_end(&mut said).unwrap();
            assert_eq!(said, LOADING);
        }
        drop(loading);
        let _client = TcpStream::connect(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        assert!(listener.accept().is_ok(), "it is left to the node");
    }

    #[test]
    fn however_many_come_nobody_is_turned_away_when_it_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _crowd = [(); 3].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (over, ends) = mpsc::channel();
        drop(over);
        listener.set_nonblocking(true).unwrap();
        turn_away(&listener, &ends, &mut VecDeque::new());
        listener.set_nonblocking(false).unwrap();
        for _ in 0..3 {
            assert!(listener.accept().is_ok(), "they are left to the node");
        }
    }
}
