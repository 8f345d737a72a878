use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;

/// A configuration file that is removed when dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sampan-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

fn configured(flags: &[&str]) -> Result<Config, Failure> {
    let root = crate::command();
    let argv: Vec<OsString> = ["sampan", "server"].iter().chain(flags).map(Into::into).collect();
    let matches = root.clone().try_get_matches_from(&argv).unwrap();
    let (_, matches) = matches.subcommand().unwrap();
    configure(matches, &root, &argv).map(|(config, _)| config)
}

fn of_file(name: &str, text: &str, flags: &[&str]) -> Result<Config, Failure> {
    let file = TempFile::new(name, text);
    let config = ["--config", file.0.to_str().unwrap()];
    configured(&[&config, flags].concat())
}

const FILE: &str = r#"
node-id = 2
cluster-id = "ab"
data-dir = "d"
listen = "127.0.0.1:8001"
peer = ["1=127.0.0.1:17001", "3=127.0.0.1:17003"]
client-timeout-ms = 1234
raft-state-max-bytes = -1
"#;

#[test]
fn a_file_sets_what_no_flag_does() {
    let config = of_file("all", FILE, &[]).unwrap();
    assert_eq!(config.node, NodeId::of(2));
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.listen.port, 8001);
    assert_eq!(config.replica.client_timeout.as_millis(), 1234);
    assert_eq!(config.replica.raft_state_bytes_max, None);
    let flags = ["--client-timeout-ms", "7", "--peer", "9=h:1", "--listen", "127.0.0.1:7001"];
    let config = of_file("some", FILE, &flags).unwrap();
    assert_eq!(config.replica.client_timeout.as_millis(), 7);
    assert_eq!(config.peers.keys().copied().collect::<Vec<_>>(), [NodeId::of(9)]);
    assert_eq!(config.listen.port, 7001);
}

#[test]
fn nodes_of_one_machine_have_a_short_election_timeout_unless_one_is_given() {
    let timeouts_ms = |name: &str, more: &str, flags: &[&str]| {
        let flags = [&["--local"][..], flags].concat();
        let raft = of_file(name, &format!("{FILE}{more}"), &flags).unwrap().replica.raft;
        [raft.election_timeout_min, raft.election_timeout_max].map(|it| it.as_millis())
    };
    assert_eq!(timeouts_ms("local", "", &[]), [150, 300]);
    let given = "election-timeout-ms = 600\nheartbeat-ms = 200\n";
    assert_eq!(timeouts_ms("local-file", given, &[]), [600, 1_200]);
    let flag = ["--election-timeout-ms", "400"];
    assert_eq!(timeouts_ms("local-flag", given, &flag), [400, 800]);
    assert_eq!(timeouts_ms("local-slow", "heartbeat-ms = 100\n", &[]), [300, 600]);
}

#[test]
fn a_fault_in_a_file_is_named_with_the_file() {
    for (name, text, words) in [
        ("key", "hartbeat-ms = 1", "unknown setting 'hartbeat-ms': want the name of a flag"),
        ("nested", "config = \"x\"", "unknown setting 'config'"),
        ("type", "heartbeat-ms = 1.5", "heartbeat-ms: want a string or an integer"),
        ("value", "heartbeat-ms = \"x\"", "invalid value 'x' for '--heartbeat-ms <N>'"),
        ("syntax", "heartbeat-ms = ", "line 1"),
    ] {
        let failure = of_file(name, text, &[]).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.text.contains(words), "{name}: {failure}");
        assert!(failure.text.contains(&format!("sampan-{name}-")), "{failure}");
    }
    let failure = configured(&["--config", "/no/such/file"]).unwrap_err();
    assert!(failure.text.starts_with("/no/such/file: No such file"), "{failure}");
}

#[test]
fn an_unknown_key_is_answered_with_near_ones() {
    let root = crate::command();
    let server = root.find_subcommand("server").unwrap();
    let text = unknown_key("heartbeat_interval_ms", server);
    assert!(text.contains("such as heartbeat-ms"), "{text}");
}

#[test]
fn the_help_tells_every_default() {
    let root = crate::command();
    let server = root.find_subcommand("server").unwrap();
    let help = |id: &str| {
        let arg = server.get_arguments().find(|arg| arg.get_id() == id).unwrap();
        arg.get_help().unwrap().to_string()
    };
    assert!(help("no_leader_wait_ms").ends_with("[default: 400]"), "{}", help("no_leader_wait_ms"));
    assert!(help("client_timeout_ms").ends_with("[default: 5000]"));
    assert!(help("election_timeout_max_ms").ends_with("[default: twice the shortest]"));
    root.clone().debug_assert();
}

/// The rows of the table of settings, from the program itself.
fn settings_table() -> String {
    let root = crate::command();
    let server = root.find_subcommand("server").unwrap();
    let mut table = String::new();
    let mut heading = None;
    for arg in server.get_arguments().filter(|arg| takes_a_value(arg) || arg.get_id() == "config") {
        if heading != arg.get_help_heading() {
            heading = arg.get_help_heading();
            writeln!(table, "| **{}** | | |", heading.unwrap_or_default()).unwrap();
        }
        let help = arg.get_help().unwrap().to_string();
        let (help, default) = help.split_once(" [default: ").unwrap_or((&help, "]"));
        let of_clap = arg.get_default_values().first().map(|value| value.to_string_lossy());
        let default = of_clap.as_deref().unwrap_or(default.trim_end_matches(']'));
        writeln!(table, "| `--{}` | {default} | {help} |", arg.get_long().unwrap()).unwrap();
    }
    table
}

#[test]
fn the_operations_page_lists_every_setting_with_its_default() {
    let page = include_str!("../../../docs/operations.md");
    let table = settings_table();
    assert!(page.contains(&table), "docs/operations.md, section Settings, should read:\n{table}");
}

#[test]
fn a_variable_that_is_no_setting_is_named_with_those_that_it_may_have_meant() {
    let root = crate::command();
    let ours = ["SAMPAN_NODE_ID", "SAMPAN_SERVERS", "SAMPAN_CONFIG"];
    let theirs = ["HOME", "SAMPAN_PORT_7001_TCP", "SAMPAN_PEERS_PORT", "SAMPAN_SERVICE_HOST"];
    let set = [&ours[..], &theirs].concat();
    assert!(unknown_variables(&root, set.iter().map(Into::into)).is_empty(), "{set:?}");
    let mistyped = ["SAMPAN_ELECTON_TIMEOUT_MAX_MS", "SAMPAN_NODE_ID", "SAMPAN_"];
    let lines = unknown_variables(&root, mistyped.iter().map(Into::into));
    assert_eq!(lines.len(), 2, "{lines:?}");
    let wanted = "warning: SAMPAN_ELECTON_TIMEOUT_MAX_MS is no setting, and ignored: want one such as \
                  SAMPAN_ELECTION_TIMEOUT_MAX_MS";
    assert!(lines[1].starts_with(wanted), "{}", lines[1]);
}
