//! Ports that nobody uses.

use std::net::TcpListener;
use std::sync::Mutex;

/// Below the range from which the kernel takes ports for outgoing connections, so that none of
/// those takes one between our looking and a node's binding.
const FIRST: u16 = 12_000;
const COUNT: u16 = 10_000;
/// `sampan cluster` puts peer ports this far above.
const PEER_OFFSET: u16 = 10_000;

/// The first of `count` free ports in a row, whose peer ports are free as well. Never the same ones
/// twice in a process.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap();
    let mut offset = next.unwrap_or_else(|| (std::process::id().wrapping_mul(61) % 9_973) as u16);
    for _ in 0..COUNT {
        let first = FIRST + offset % (COUNT - count);
        offset = (offset + count) % COUNT;
        *next = Some(offset);
        if (first..first + count).all(|port| is_free(port) && is_free(port + PEER_OFFSET)) {
            return first;
        }
    }
    panic!("no {count} free ports from {FIRST} on");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
