//! The time in which a node loads its data and takes no turns yet: clients that come then are told
//! so, and go to another node, instead of waiting for as long as it takes.
//!
//! What it is not: the time in which a log is repaired, which is `repair.rs`.

use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A load this short is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked for clients.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
            let mut wait = patience;
            while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(wait) {
                wait = LOOK_EVERY;
                turn_away(&clients, &ends);
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

/// Those who wait, but none any more when it is over: who is turned away may come again at once,
/// and the node would wait for as long as they do.
fn turn_away(clients: &TcpListener, ends: &Receiver<()>) {
    while let Err(TryRecvError::Empty) = ends.try_recv()
        && let Ok((mut client, _)) = clients.accept()
    {
        // Whoever does not read it has gone.
        _ = client.write_all(LOADING).and_then(|()| client.shutdown(Shutdown::Write));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

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
        turn_away(&listener, &ends);
        listener.set_nonblocking(false).unwrap();
        for _ in 0..3 {
            assert!(listener.accept().is_ok(), "they are left to the node");
        }
    }
}
