//! What a reply says about the call it answers (`docs/protocol.md`, errors). Pure.

use sampan_resp::Value;

/// See [`judge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The outcome, be it a value or an error.
    Final,
    /// This copy of the command was certainly not applied: try again after a while.
    Refused,
    /// The same, for the server keeps too many replies of the session that are not acknowledged.
    SessionFull,
    /// The same, and this node can do nothing about it: try another.
    RefusedHere,
    /// This copy may be applied, or not.
    Unknown,
    /// The session is gone: this copy was not applied. An earlier one may have been.
    SessionExpired,
    /// The session disagrees with us about what was sent in it.
    SessionBroken,
    /// Not a Sampan node.
    NoSessions,
}

/// How errors begin that a node closes a connection with, for it has too much on its hands. They
/// say nothing of the command: another node takes it, and an earlier copy may have been applied.
const OF_A_NODE: [&str; 2] =
    ["ERR max number of clients reached", "ERR incomplete commands use too much memory"];

pub(crate) fn judge(value: &Value) -> Verdict {
    let Value::Error(text) = value else { return Verdict::Final };
    let code = text.split(' ').next().unwrap_or_default();
    match code {
        "UNKNOWN" => Verdict::Unknown,
        "NOSPACE" => Verdict::Refused,
        "SESSIONFULL" => Verdict::SessionFull,
        "CLUSTERDOWN" | "LOADING" => Verdict::RefusedHere,
        "SESSIONEXPIRED" => Verdict::SessionExpired,
        "SESSIONSTALE" | "SESSIONREUSED" => Verdict::SessionBroken,
        "ERR" if OF_A_NODE.iter().any(|start| text.starts_with(start)) => Verdict::RefusedHere,
        "ERR" if is_unknown_command(text, "SESSION") || is_unknown_command(text, "ONCE") => {
            Verdict::NoSessions
        }
        _ => Verdict::Final,
    }
}

/// Redis quotes the name with apostrophes or back-quotes, by its version.
fn is_unknown_command(text: &str, name: &str) -> bool {
    text.strip_prefix("ERR unknown command ")
        .and_then(|rest| rest.get(1..=name.len()))
        .is_some_and(|found| found.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_judged_by_their_code() {
        let cases = [
            ("UNKNOWN outcome not known, command may still be applied", Verdict::Unknown),
            ("CLUSTERDOWN No leader elected", Verdict::RefusedHere),
            ("LOADING", Verdict::RefusedHere),
            ("ERR max number of clients reached", Verdict::RefusedHere),
            (
                "ERR incomplete commands use too much memory; this connection held the most and was closed",
                Verdict::RefusedHere,
            ),
            ("NOSPACE no room for the log", Verdict::Refused),
            ("SESSIONFULL too many replies not acknowledged", Verdict::SessionFull),
            ("BUSYKEY Target key name already exists.", Verdict::Final),
            ("SESSIONEXPIRED", Verdict::SessionExpired),
            ("SESSIONREUSED", Verdict::SessionBroken),
            (
                "ERR unknown command 'SESSION', with args beginning with: 'OPEN' ",
                Verdict::NoSessions,
            ),
            ("ERR unknown command `once`, with args beginning with:", Verdict::NoSessions),
            ("ERR unknown command 'SESS", Verdict::Final),
            ("ERR unknown command 'FOO'", Verdict::Final),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Verdict::Final),
            ("", Verdict::Final),
        ];
        for (text, verdict) in cases {
            assert_eq!(judge(&Value::Error(text.to_owned())), verdict, "{text:?}");
        }
        assert_eq!(judge(&Value::Simple("UNKNOWN".into())), Verdict::Final);
    }
}
