//! One node from the command line: `node ID PORT DIR [ID=HOST:PEERPORT ...]`.
use std::process::ExitCode;

use sampan_base::{ClusterId, NodeId};
use sampan_server::{Config, HostPort};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let listen = HostPort::new("127.0.0.1", args[2].parse().unwrap());
    let mut config =
        Config::new(ClusterId(1), NodeId::of(args[1].parse().unwrap()), listen, &args[3]).unwrap();
    for peer in &args[4..] {
        let (id, address) = peer.split_once('=').unwrap();
        config.peers.insert(NodeId::of(id.parse().unwrap()), address.parse().unwrap());
    }
    match sampan_server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
