//! A proxy on every link between nodes, one for each direction, each of which can be cut: bytes
//! then wait, and no connection ends, as if cables were pulled. What waited arrives when the link
//! heals.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a thread looks whether the link was cut, or is no longer needed.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The proxies; their threads end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Links(BTreeMap<(u64, u64), Link>);

#[derive(Clone, Debug)]
struct Link {
    port: u16,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Links {
    /// A proxy for each pair of nodes, given their peer ports.
    pub(crate) fn between(peer_ports: &BTreeMap<u64, u16>) -> Self {
        let mut links = BTreeMap::new();
        for &from in peer_ports.keys() {
            for (&to, &port) in peer_ports.iter().filter(|&(&to, _)| to != from) {
                links.insert((from, to), Link::to(port));
            }
        }
        Self(links)
    }

    /// Where `from` finds `to`, if there are proxies at all.
    pub(crate) fn port(&self, from: u64, to: u64) -> Option<u16> {
        self.0.get(&(from, to)).map(|link| link.port)
    }

    /// Cuts all links from and to a node, or heals them.
    pub(crate) fn set_cut(&self, node: u64, is_cut: bool) {
        for ((from, to), link) in &self.0 {
            if *from == node || *to == node {
                link.is_cut.store(is_cut, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.0.values().for_each(|link| link.is_over.store(true, Ordering::SeqCst));
    }
}

impl Link {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let link = Self {
            port: listener.local_addr().unwrap().port(),
            is_cut: Arc::default(),
            is_over: Arc::default(),
        };
        let of_thread = link.clone();
        std::thread::spawn(move || of_thread.accept(&listener, port));
        link
    }

    fn accept(&self, listener: &TcpListener, port: u16) {
        while !self.is_over.load(Ordering::SeqCst) {
            let accepted = listener.accept().ok().filter(|_| !self.is_cut.load(Ordering::SeqCst));
            let Some((near, _)) = accepted else {
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            };
            // The node that is meant does not run: the one that dialled sees its connection close.
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let link = self.clone();
                std::thread::spawn(move || link.pump(from, to));
            }
        }
    }

    /// Copies one direction of one connection until either side ends.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        from.set_nonblocking(false).unwrap();
        from.set_read_timeout(Some(LOOK_INTERVAL)).unwrap();
        to.set_nodelay(true).unwrap();
        let mut bytes = vec![0; 64 << 10];
        while !self.is_over.load(Ordering::SeqCst) {
            if self.is_cut.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            }
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) if to.write_all(&bytes[..count]).is_ok() => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        // Either may have been closed already.
        _ = from.shutdown(Shutdown::Both);
        _ = to.shutdown(Shutdown::Both);
    }
}
