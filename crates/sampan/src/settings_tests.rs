use clap::CommandFactory as _;

use super::*;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    settings: Settings,
}

fn config(flags: &str) -> Result<Config, Failure> {
    let argv = format!("server --node-id 1 --cluster-id ab --data-dir d {flags}");
    let flags = <Flags as clap::Parser>::try_parse_from(argv.split_whitespace())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let mut config = flags.identity.into_config()?;
    flags.settings.apply(&mut config)?;
    Ok(config)
}

fn error_of(flags: &str) -> String {
    let failure = config(flags).unwrap_err();
    assert_eq!(failure.code, 2);
    failure.text
}

#[test]
fn flags_reach_the_field_they_name() {
    let config = config(
        "--listen 127.0.0.1:9001 --peer 2=h:1,3=h:2 --peer 4=h:3 --advertise x:7 \
         --election-timeout-ms 150 --heartbeat-ms 20 --raft-state-max-bytes 4096 --idle-ms 5 \
         --clients-max 7 --value-bytes-max 100 --no-leader-wait-ms 3",
    )
    .unwrap();
    assert_eq!(config.cluster, ClusterId(0xab));
    assert_eq!(config.listen_peer.to_string(), "127.0.0.1:19001");
    assert_eq!(config.peers.len(), 3);
    assert_eq!(config.advertise.as_ref().unwrap().to_string(), "x:7");
    let raft = &config.replica.raft;
    let ms = Duration::from_millis;
    assert_eq!((raft.election_timeout_min, raft.election_timeout_max), (ms(150), ms(300)));
    assert_eq!(config.replica.raft_state_bytes_max, Some(4096));
    assert_eq!(config.limits.idle_time, Some(ms(5)));
    assert_eq!(config.limits.clients_max, 7);
    assert_eq!(config.replica.kv.value_bytes_max, 100);
    assert_eq!(config.replica.no_leader_wait, ms(3));
}

#[test]
fn minus_one_and_zero_stand_for_never() {
    let config = config("--raft-state-max-bytes -1 --idle-ms 0").unwrap();
    assert_eq!(config.replica.raft_state_bytes_max, None);
    assert_eq!(config.limits.idle_time, None);
}

#[test]
fn a_high_client_port_needs_a_peer_address() {
    let listen = "--listen 127.0.0.1:60000";
    let text =
        "--listen is 127.0.0.1:60000: want a port of at most 55535, or --peer-listen beside it";
    assert_eq!(error_of(listen), text);
    let config = config(&format!("{listen} --peer-listen 127.0.0.1:60001")).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:60000");
    assert_eq!(config.listen_peer.to_string(), "127.0.0.1:60001");
}

#[test]
fn each_fault_is_named_with_what_is_accepted() {
    for (flags, words) in [
        ("--peer 2=h:1 --peer 2=h:2", "--peer n2 is given twice: want one address for each node"),
        ("--peer 1=h:1", "--peer is n1: this node itself: want only the other nodes"),
        ("--peer 2=0.0.0.0:1", "--peer n2 is 0.0.0.0:1: want a host and port to connect to"),
        ("--peer h:1", "want ID=HOST:PORT, such as 2=127.0.0.1:17002"),
        ("--listen 7001", "want HOST:PORT"),
        (
            "--heartbeat-ms 400",
            "--heartbeat-ms (400ms) must be above 0 and at most half of --election-timeout-ms (300ms)",
        ),
        (
            "--snapshot-message-bytes-max 16",
            "--snapshot-message-bytes-max is 16: want at least 4096",
        ),
        ("--inflight-messages-max 0", "--inflight-messages-max must be at least 1"),
        ("--redial-min-ms 0", "--redial-min-ms is 0ms: want at least 1ms"),
        ("--apply-bytes-max 0", "--apply-bytes-max is 0: want at least 1"),
        ("--request-arguments-max 0", "--request-arguments-max is 0: want at least 4"),
        ("--arguments-max 0", "--arguments-max must be at least 1"),
        ("--shards 3", "--shards 3 must be a power of two"),
        ("--peer-listen 127.0.0.1:7001", "--peer-listen is 127.0.0.1:7001: the address for"),
        ("--raft-state-max-bytes -2", "--raft-state-max-bytes is -2: want bytes, 0 to 9"),
        ("--clients-max 0", "--clients-max is 0: want at least 1"),
        ("--advertise 0.0.0.0:7001", "--advertise is 0.0.0.0:7001: want a host and port"),
        ("--output-soft-ms 0", "--output-soft-ms is 0ms: want at least 1ms"),
        ("--snapshots-kept 65", "--snapshots-kept is 65: want at most 64"),
        ("--shards 131072", "--shards is 131072: want at most 65536"),
        ("--backup-read-bytes 16777217", "--backup-read-bytes is 16777217: want at most 16777216"),
        ("--heartbeat-ms soon", "invalid value 'soon' for '--heartbeat-ms <N>'"),
    ] {
        let error = error_of(flags);
        assert!(error.contains(words), "{flags}: {error}");
    }
}

#[test]
fn a_missing_setting_is_named_in_all_its_ways() {
    let failure = Identity::default().into_config().unwrap_err();
    assert_eq!(
        failure.text,
        "node-id is missing: want a number of 1 or more, by --node-id, SAMPAN_NODE_ID or the \
         --config file"
    );
}

#[test]
fn ids_are_read_strictly() {
    assert_eq!(cluster_id("00000000000000FF"), Ok(ClusterId(255)));
    for text in ["", "+1", "xyz", "10000000000000000"] {
        assert!(cluster_id(text).is_err(), "{text}");
    }
    assert_eq!(node_id("3"), Ok(NodeId::of(3)));
    assert!(node_id("0").is_err());
}

#[test]
fn each_flag_has_its_environment_variable() {
    for arg in Flags::command().get_arguments().filter(|arg| arg.get_id() != "help") {
        let id = arg.get_id().as_str();
        let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
        assert_eq!(variable, format!("SAMPAN_{}", id.to_uppercase()));
        assert_eq!(arg.get_long().unwrap_or_default(), id.replace('_', "-"));
    }
}
