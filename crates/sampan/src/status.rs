//! `sampan status`: what each node says of itself, side by side.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use crate::clerk::Servers;
use crate::exit::{self, Ended};
use crate::probe::{self, Fields};
use crate::terminal::{complain, print};

/// The columns.
const HEADINGS: [&str; 10] = [
    "NODE",
    "ADDRESS",
    "ROLE",
    "TERM",
    "COMMIT",
    "APPLIED",
    "LAG",
    "LOG BYTES",
    "DISK",
    "SNAPSHOT",
];

/// A line of the table.
type Row = [String; HEADINGS.len()];

/// A node's answer, or why there is none.
type Answer = Result<Fields, String>;

/// Asks all nodes at once and prints a line for each.
pub(crate) fn run(servers: &Servers) -> Ended {
    let addresses = servers.addresses()?;
    let time = Duration::from_millis(servers.timeout_ms);
    exit::block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for (place, address) in addresses.iter().cloned().enumerate() {
            asked.spawn(async move { (place, probe::info(&address, "all", time).await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        let answers: Vec<Answer> = answers.into_iter().map(|(_, answer)| answer).collect();
        print(table(addresses, &answers).as_bytes())?;
        if let Some(text) = divergence(&answers) {
            complain(format_args!("warning: {text}"));
        }
        Ok(verdict(&answers))
    })
}

fn verdict(answers: &[Answer]) -> ExitCode {
    let has_leader = answers.iter().flatten().any(knows_leader);
    let is_well =
        |answer: &Answer| answer.as_ref().is_ok_and(|f| knows_leader(f) && !is_cut_off(f));
    match (has_leader, answers.iter().all(is_well) && divergence(answers).is_none()) {
        (false, _) => exit::UNAVAILABLE.into(),
        (true, false) => exit::NOT_MET.into(),
        (true, true) => ExitCode::SUCCESS,
    }
}

/// A leader has itself for its leader, and a follower hears of one.
fn knows_leader(fields: &Fields) -> bool {
    number(fields, "leader_id") > 0
}

/// A follower that hears its leader and has no connection to it: it takes no writes.
fn is_cut_off(fields: &Fields) -> bool {
    knows_leader(fields) && field(fields, "leader_connected") == "0"
}

/// Two nodes that have applied the same entries, and yet hold different states.
fn divergence(answers: &[Answer]) -> Option<String> {
    let mut first_at = BTreeMap::new();
    // A node of an older version does not say.
    let told = answers.iter().flatten().filter(|fields| fields.contains_key("applied_digest"));
    for fields in told {
        let applied = number(fields, "applied_index");
        let first: &Fields =
            first_at.entry((field(fields, "cluster_id"), applied)).or_insert(fields);
        if field(first, "applied_digest") != field(fields, "applied_digest") {
            let [one, other] = [first, fields].map(|fields| field(fields, "node_id"));
            return Some(format!(
                "n{one} and n{other} have both applied {applied} and hold different states: a bug; keep their \
                 directories and report it"
            ));
        }
    }
    None
}

fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("?", String::as_str)
}

/// The table. The lag is what a node has not applied of what any of them knows to be committed.
fn table(addresses: &[String], answers: &[Answer]) -> String {
    let commits = answers.iter().flatten().map(|fields| number(fields, "commit_index"));
    let commit_max = commits.max().unwrap_or(0);
    let rows =
        addresses.iter().zip(answers).map(|(address, answer)| row(address, answer, commit_max));
    aligned(std::iter::once(HEADINGS.map(str::to_owned)).chain(rows).collect())
}

fn number(fields: &Fields, name: &str) -> u64 {
    field(fields, name).parse().unwrap_or(0)
}

fn row(address: &str, answer: &Answer, commit_max: u64) -> Row {
    let fields = match answer {
        Ok(fields) => fields,
        Err(why) => {
            let mut row = HEADINGS.map(|_| "-".to_owned());
            address.clone_into(&mut row[1]);
            row[2] = format!("down ({why})");
            return row;
        }
    };
    let of_field = |name: &str| field(fields, name).to_owned();
    let past = match (number(fields, "voters_unheard"), field(fields, "voting")) {
        // It has none, and waits for the others to tell whether it had one.
        (unheard @ 1.., _) => format!(", new, waits for {unheard} more"),
        // What it lost is on its way.
        (0, "0") => ", repairing".to_owned(),
        (0, _) => String::new(),
    };
    let way = if is_cut_off(fields) {
        format!(", cannot reach n{}", field(fields, "leader_id"))
    } else {
        String::new()
    };
    let role = format!("{}{past}{way}", field(fields, "raft_role"));
    let snapshot = match field(fields, "snapshot_index") {
        "0" => "-".to_owned(),
        index => format!("{index} ({} bytes)", field(fields, "snapshot_bytes")),
    };
    [
        format!("n{}", field(fields, "node_id")),
        address.to_owned(),
        role,
        of_field("term"),
        of_field("commit_index"),
        of_field("applied_index"),
        commit_max.saturating_sub(number(fields, "applied_index")).to_string(),
        of_field("live_log_bytes"),
        of_field("disk_health"),
        snapshot,
    ]
}

/// Lines whose columns are as wide as the widest cell of each.
fn aligned(rows: Vec<Row>) -> String {
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(widest);
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
            ("node_id", id),
            ("raft_role", role),
            ("term", "3"),
            ("commit_index", commit),
            ("applied_index", applied),
            ("live_log_bytes", "99"),
            ("disk_health", "well"),
            ("snapshot_index", snapshot),
            ("snapshot_bytes", "77"),
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
            "NODE  ADDRESS  ROLE                       TERM  COMMIT  APPLIED  LAG  LOG BYTES  DISK  SNAPSHOT\n\
             n1    h:1      leader                     3     120     120      0    99         well  100 (77 bytes)\n\
             -     h:2      down (connection refused)  -     -       -        -    -          -     -\n\
             n3    h:3      follower                   3     110     90       30   99         well  -\n"
        );
    }

    #[test]
    fn a_new_node_is_not_taken_for_one_that_repairs() {
        let mut fields = node("3", "follower", "110", "90", "0");
        fields
            .extend([("voting", "0"), ("voters_unheard", "2")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!(row("h:3", &Ok(fields.clone()), 110)[2], "follower, new, waits for 2 more");
        fields.insert("voters_unheard".to_owned(), "0".to_owned());
        assert_eq!(row("h:3", &Ok(fields), 110)[2], "follower, repairing");
    }

    #[test]
    fn nodes_that_applied_the_same_and_differ_are_not_well() {
        let told = |id: &str, applied: &str, digest: &str| {
            let mut fields = node(id, "follower", "110", applied, "0");
            fields.insert("leader_id".to_owned(), "2".to_owned());
            fields.insert("applied_digest".to_owned(), digest.to_owned());
            Ok(fields)
        };
        let mut answers = vec![told("1", "90", "ab"), told("2", "91", "cd"), told("3", "90", "ab")];
        // One that is down, and one of an older version.
        answers.extend([Err("no route".to_owned()), Ok(node("5", "follower", "110", "90", "0"))]);
        assert_eq!(divergence(&answers), None);
        answers.push(told("6", "91", "ce"));
        let text = divergence(&answers).unwrap_or_default();
        assert!(
            text.starts_with("n2 and n6 have both applied 91 and hold different states"),
            "{text}"
        );
        answers.retain(|answer| answer.as_ref().is_ok_and(|f| f.contains_key("applied_digest")));
        assert_eq!(verdict(&answers), exit::NOT_MET.into());
        answers.pop();
        assert_eq!(verdict(&answers), ExitCode::SUCCESS);
    }

    #[test]
    fn a_follower_that_cannot_reach_its_leader_is_not_well() {
        let mut fields = node("3", "follower", "110", "90", "0");
        fields.extend(
            [("leader_id", "2"), ("leader_connected", "1")].map(|(k, v)| (k.into(), v.into())),
        );
        assert_eq!(verdict(&[Ok(fields.clone())]), ExitCode::SUCCESS);
        fields.insert("leader_connected".to_owned(), "0".to_owned());
        assert_eq!(row("h:3", &Ok(fields.clone()), 110)[2], "follower, cannot reach n2");
        assert_eq!(verdict(&[Ok(fields)]), exit::NOT_MET.into());
    }
}
