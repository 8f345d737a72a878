//! Replaying an order of operations, one at a time: the one place that accepts a history.
//!
//! Every path of this crate that finds a history linearizable ends here with an order, and the
//! order is held against the definition (Herlihy and Wing, section 2.2): every completed operation
//! once, open ones at most once, nothing before what returned before its call, and every output as
//! the model gives it, over whole strings. So a fault in a search can cost an answer and cannot
//! make a wrong one pass.
//!
//! The witness check is the same replay, with the order that the store itself claims by the log
//! index of each operation: one sort and one pass, and sound whatever the indices say.

use crate::history::{History, OperationId};
use crate::model::{State, apply};
use crate::part::Part;

/// Why an order does not explain a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was answered, and the order lacks it.
    Lacks(OperationId),
    /// The order has it more than once.
    Repeats(OperationId),
    /// It comes after an operation that was called when it had already returned.
    TooLate(OperationId),
    /// At its place the model gives another output.
    Output(OperationId),
    /// It was answered and carries no log index.
    NoWitness(OperationId),
}

impl Refusal {
    /// One line for people.
    pub fn describe(&self, history: &History) -> String {
        let (id, why) = match *self {
            Self::Lacks(id) => (id, "was answered but has no place"),
            Self::Repeats(id) => (id, "has two places"),
            Self::TooLate(id) => (id, "comes after an operation called when it had returned"),
            Self::Output(id) => (id, "answered what its place does not give"),
            Self::NoWitness(id) => (id, "carries no log index"),
        };
        format!("{}: it {why}", history.describe(id))
    }
}

/// Holds an order of a part's entries, given by their positions, against the definition.
pub(crate) fn replay(part: &Part<'_>, order: &[u32]) -> Result<(), Refusal> {
    let mut placed = vec![false; part.entries.len()];
    let mut states: Vec<State<String>> = part.keys.iter().map(|_| part.start_state()).collect();
    let mut last_call_ns = 0;
    for &at in order {
        let entry = &part.entries[at as usize];
        if std::mem::replace(&mut placed[at as usize], true) {
            return Err(Refusal::Repeats(entry.id));
        }
        if entry.return_ns < last_call_ns {
            return Err(Refusal::TooLate(entry.id));
        }
        last_call_ns = last_call_ns.max(entry.call_ns);
        for step in part.steps(entry) {
            let state = &mut states[part.key_place(step.key)];
            if !apply(state, &part.resolve(step.action), part.history.tells_missing()) {
                return Err(Refusal::Output(entry.id));
            }
        }
    }
    let entries = part.entries.iter().zip(placed);
    let mut lacking = entries.filter(|(entry, placed)| !placed && !entry.is_open());
    lacking.next().map_or(Ok(()), |(entry, _)| Err(Refusal::Lacks(entry.id)))
}

/// The order that the witnesses claim. Open operations without one are taken not to have happened.
/// At the same place reads come after writes, else the order is that of the calls.
pub(crate) fn claimed_order(part: &Part<'_>) -> Result<Vec<u32>, Refusal> {
    let mut claims = Vec::with_capacity(part.entries.len());
    for (at, entry) in part.entries.iter().enumerate() {
        match part.history.operation(entry.id).witness {
            Some(witness) => claims.push((witness, part.only_reads(entry), at as u32)),
            None if entry.is_open() => {}
            None => return Err(Refusal::NoWitness(entry.id)),
        }
    }
    claims.sort_unstable();
    Ok(claims.into_iter().map(|(_, _, at)| at).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::parts;

    #[test]
    fn an_order_must_have_every_answer_once_and_in_time() {
        let lines = r#"
            {"client":1,"op":"put","key":"k","value":"a","call":0,"ret":10,"status":"ok"}
            {"client":2,"op":"put","key":"k","value":"b","call":5,"ret":20,"status":"ok"}
            {"client":3,"op":"put","key":"k","value":"c","call":6,"ret":null,"status":"unknown"}
            {"client":4,"op":"get","key":"k","out":"b","call":11,"ret":30,"status":"ok"}
        "#;
        let history = History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        let parts = parts(&history);
        let id = OperationId;
        let cases: [(&[u32], Result<(), Refusal>); 9] = [
            (&[0, 1, 3], Ok(())),
            (&[0, 1, 3, 2], Ok(())),
            (&[0, 2, 1, 3], Ok(())),
            (&[0, 1, 2, 3], Err(Refusal::Output(id(3)))),
            (&[1, 0, 3], Err(Refusal::Output(id(3)))),
            (&[0, 1], Err(Refusal::Lacks(id(3)))),
            (&[1, 3], Err(Refusal::Lacks(id(0)))),
            (&[0, 1, 3, 3], Err(Refusal::Repeats(id(3)))),
            (&[1, 3, 0], Err(Refusal::TooLate(id(0)))),
        ];
        for (order, expected) in cases {
            assert_eq!(replay(&parts[0], order), expected, "{order:?}");
        }
    }
}
