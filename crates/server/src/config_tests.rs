use super::*;

fn config() -> Config {
    let listen = HostPort::new("127.0.0.1", 7001);
    let mut config = Config::new(ClusterId(1), NodeId::of(1), listen, "data").unwrap();
    config.peers.insert(NodeId::of(2), HostPort::new("127.0.0.1", 17002));
    config.peers.insert(NodeId::of(3), HostPort::new("127.0.0.1", 17003));
    config
}

fn error_of(change: impl FnOnce(&mut Config)) -> String {
    let mut config = config();
    change(&mut config);
    config.check().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_accepted_and_the_tiny_limits_too() {
    let mut config = config();
    config.check().unwrap();
    assert_eq!(config.listen_peer, HostPort::new("127.0.0.1", 17001));
    assert_eq!(config.bootstrap(), Configuration::of_voters([1, 2, 3].map(NodeId::of)));
    config.limits = Limits::tiny();
    config.check().unwrap();
}

#[test]
fn addresses_are_read_and_shown() {
    for text in ["127.0.0.1:7001", "node1:1", "[::1]:65535", "0.0.0.0:0"] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    for text in ["", "7001", ":7001", "host:", "host:65536", "::1:7001", "[::1:7001", "a b:1"] {
        let error = text.parse::<HostPort>().unwrap_err().to_string();
        assert_eq!(error, format!("address is '{text}': want HOST:PORT"));
    }
}

#[test]
fn a_port_too_high_for_the_offset_is_refused() {
    let listen = HostPort::new("h", 60_000);
    let error = Config::new(ClusterId(1), NodeId::of(1), listen, "data").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("listen is h:60000: want a port of at most 55535, or listen_peer")
    );
}

#[test]
fn what_no_machine_could_do_is_refused() {
    let kept = error_of(|c| c.replica.storage.snapshots_kept = usize::MAX);
    assert_eq!(kept, format!("snapshots_kept is {}: want at most 64", usize::MAX));
    let shards = error_of(|c| c.replica.kv.shards = 1 << 40);
    assert_eq!(shards, "shards is 1099511627776: want at most 65536");
    let soft = error_of(|c| c.limits.output_soft_time = Duration::ZERO);
    assert_eq!(soft, "output_soft_time is 0ms: want at least 1ms");
}

#[test]
fn a_piece_of_a_backup_fits_a_reply_as_sampan_backup_takes_it() {
    let piece = error_of(|c| c.limits.backup_read_bytes = BACKUP_READ_BYTES_MAX + 1);
    assert_eq!(piece, "backup_read_bytes is 16777217: want at most 16777216");
    assert!(BACKUP_READ_BYTES_MAX <= sampan_resp::ReplyLimits::default().bulk_bytes_max);
}

#[test]
fn what_is_advertised_can_be_connected_to() {
    for address in ["0.0.0.0:7001", "[::]:7001", "h:0"] {
        let error = error_of(|c| c.advertise = Some(address.parse().unwrap()));
        let expected = format!("advertise is {address}: want a host and port to connect to");
        assert_eq!(error, expected);
    }
}

#[test]
fn each_fault_is_named_with_what_is_accepted() {
    let n2 = NodeId::of(2);
    let itself = error_of(|c| drop(c.peers.insert(c.node, HostPort::new("h", 1))));
    assert_eq!(itself, "peers is n1: this node itself: want only the other nodes");
    let nowhere = error_of(|c| drop(c.peers.insert(n2, HostPort::new("0.0.0.0", 17002))));
    assert_eq!(nowhere, "peers n2 is 0.0.0.0:17002: want a host and port to connect to");
    let twice = error_of(|c| drop(c.peers.insert(n2, HostPort::new("127.0.0.1", 17003))));
    assert!(twice.starts_with("peers n3 is 127.0.0.1:17003: the address of another"), "{twice}");
    let same = error_of(|c| c.listen_peer = c.listen.clone());
    assert!(same.starts_with("listen_peer is 127.0.0.1:7001: the address for clients"), "{same}");
    let other = error_of(|c| c.replica = Options::new(n2));
    assert_eq!(other, "replica.raft.id is n2: want this node's id, n1");
    let slow = error_of(|c| c.replica.raft.heartbeat_interval = Duration::from_secs(9));
    assert!(slow.contains("heartbeat_interval"), "{slow}");
    let command = error_of(|c| c.replica.kv.command_bytes_max = c.replica.storage.entry_bytes_max);
    assert!(command.starts_with("command_bytes_max is "), "{command}");
    assert!(command.ends_with(", to fit entry_bytes_max with batch_bytes_max"), "{command}");
    let forwarded = error_of(|c| {
        c.replica.storage.segment_bytes = 48 << 20;
        c.replica.storage.entry_bytes_max = 20 << 20;
        c.replica.kv.command_bytes_max = FORWARDED_BYTES_MAX + 1;
    });
    assert_eq!(
        forwarded,
        "command_bytes_max is 16777217: want 1 to 16777216, to fit what a follower may forward to \
         the leader"
    );
    let frame = FRAME_PAYLOAD_BYTES_MAX - ROOM_BYTES;
    let reply = error_of(|c| c.replica.kv.reply_bytes_max = frame - c.replica.kv.arguments_max);
    assert!(reply.starts_with("replica.kv.reply_bytes_max is "), "{reply}");
    assert!(reply.contains(", to fit a frame between nodes with "), "{reply}");
    let arguments = error_of(|c| c.replica.kv.arguments_max = usize::MAX);
    assert!(arguments.ends_with(" what stands before arguments_max values"), "{arguments}");
    let append = error_of(|c| c.replica.raft.append_bytes_max = FRAME_PAYLOAD_BYTES_MAX);
    assert!(append.starts_with("append_bytes_max is "), "{append}");
    assert!(append.ends_with(", to fit a frame between nodes"), "{append}");
    assert_eq!(error_of(|c| c.limits.clients_max = 0), "clients_max is 0: want at least 1");
    let partial = error_of(|c| c.limits.requests_partial_bytes_max = 4 << 20);
    let least = "want at least 33554432, 8 times request_bytes_max or inline_bytes_max";
    assert_eq!(partial, format!("requests_partial_bytes_max is 4194304: {least}"));
    let total = error_of(|c| c.limits.output_total_bytes_max = 1 << 20);
    let least = "want at least output_bytes_max (536870912)";
    assert_eq!(total, format!("output_total_bytes_max is 1048576: {least}"));
    let redial = error_of(|c| c.limits.redial_time_max = Duration::ZERO);
    assert_eq!(redial, "redial_time_max is 0ns: want at least redial_time_min (20ms)");
    let long = error_of(|c| c.replica.client_timeout = Duration::MAX);
    assert!(
        long.starts_with("client_timeout is ") && long.ends_with("want at most 366 days"),
        "{long}"
    );
    let long = error_of(|c| c.limits.stop_flush_time = Duration::from_hours(366 * 24 + 1));
    assert_eq!(long, "stop_flush_time is 31626000000ms: want at most 366 days");
    let percent = error_of(|c| c.replica.raft_state_snapshot_percent = u64::MAX);
    assert!(percent.ends_with(": want at most 10000"), "{percent}");
    let output = error_of(|c| c.limits.output_soft_bytes = 1 << 30);
    assert_eq!(output, "output_soft_bytes is 1073741824: want 1 to 536870912");
    assert_eq!(error_of(|c| c.data_dir = "".into()), "data_dir is empty: want a directory");
}
