//! `sampan status`: what each node says of itself, side by side.

use std::process::ExitCode;
use std::time::Duration;

use crate::clerk::Servers;
use crate::exit::{self, Ended, Failure};
use crate::probe::{self, Fields};

/// The columns, and the fields they are made of.
const HEADINGS: [&str; 9] =
    ["NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "LOG BYTES", "SNAPSHOT"];

/// A node's answer, or why there is none.
type Answer = Result<Fields, String>;

/// Asks all nodes at once and prints a line for each.
pub(crate) fn run(servers: &Servers) -> Ended {
    let addresses = servers.addresses()?;
    let time = Duration::from_millis(servers.timeout_ms);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::usage(format!("cannot start: {error}")))?;
    let answers = runtime.block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for (place, address) in addresses.iter().cloned().enumerate() {
            asked.spawn(async move { (place, probe::info(&address, "raft", time).await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect::<Vec<Answer>>()
    });
    print!("{}", table(addresses, &answers));
    let has_leader = answers.iter().flatten().any(|fields| field(fields, "raft_role") == "leader");
    Ok(match (has_leader, answers.iter().all(Result::is_ok)) {
        (false, _) => exit::UNAVAILABLE.into(),
        (true, false) => exit::NOT_MET.into(),
        (true, true) => ExitCode::SUCCESS,
    })
}

fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("?", String::as_str)
}

/// Lines of equal columns. The lag is what a node has not applied of what any of them knows to be
/// committed.
fn table(addresses: &[String], answers: &[Answer]) -> String {
    let number = |fields: &Fields, name: &str| field(fields, name).parse::<u64>().unwrap_or(0);
    let commit_max = answers.iter().flatten().map(|fields| number(fields, "raft_commit")).max();
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for (address, answer) in addresses.iter().zip(answers) {
        let mut row = HEADINGS.map(|_| "-".to_owned());
        row[1].clone_from(address);
        match answer {
            Err(why) => row[2] = format!("down ({why})"),
            Ok(fields) => {
                let lag = commit_max.unwrap_or(0).saturating_sub(number(fields, "raft_applied"));
                let snapshot = match field(fields, "raft_snapshot_index") {
                    "0" => "-".to_owned(),
                    index => format!("{index} ({} bytes)", field(fields, "raft_snapshot_bytes")),
                };
                row[0] = format!("n{}", field(fields, "raft_node_id"));
                row[2] = field(fields, "raft_role").to_owned();
                row[3] = field(fields, "raft_term").to_owned();
                row[4] = field(fields, "raft_commit").to_owned();
                row[5] = field(fields, "raft_applied").to_owned();
                row[6] = lag.to_string();
                row[7] = field(fields, "raft_log_bytes_live").to_owned();
                row[8] = snapshot;
            }
        }
        rows.push(row);
    }
    let widths: [usize; HEADINGS.len()] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, role: &str, commit: &str, applied: &str, snapshot: &str) -> Fields {
        let fields = [
            ("raft_node_id", id),
            ("raft_role", role),
            ("raft_term", "3"),
            ("raft_commit", commit),
            ("raft_applied", applied),
            ("raft_log_bytes_live", "99"),
            ("raft_snapshot_index", snapshot),
            ("raft_snapshot_bytes", "77"),
        ];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn each_node_has_a_line_and_one_that_is_down_says_why() {
        let addresses = ["h:1", "h:2", "h:3"].map(str::to_owned);
        let answers = [
            Ok(node("1", "leader", "120", "120", "100")),
            Err("connection refused".to_owned()),
            Ok(node("3", "follower", "110", "90", "0")),
        ];
        assert_eq!(
            table(&addresses, &answers),
            "NODE  ADDRESS  ROLE                       TERM  COMMIT  APPLIED  LAG  LOG BYTES  SNAPSHOT\n\
             n1    h:1      leader                     3     120     120      0    99         100 (77 bytes)\n\
             -     h:2      down (connection refused)  -     -       -        -    -          -\n\
             n3    h:3      follower                   3     110     90       30   99         -\n"
        );
    }
}
