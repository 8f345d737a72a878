//! Linearizability of what clients saw (Herlihy and Wing 1990), by [`sampan_lincheck`].

use sampan_lincheck::{History, Options, Verdict, check as decide};

use super::Violation;

/// The history of one run. Undecided is a violation: a check that gives up proves nothing.
pub fn check(history: &History) -> Result<(), Violation> {
    let options = Options { threads: 1, ..Options::default() };
    let report = decide(history, &options);
    match report.verdict {
        Verdict::Linearizable => Ok(()),
        Verdict::NotLinearizable(counterexample) => Err(Violation::new(
            "linearizability",
            format!(
                "keys {:?}: {} fits nowhere; the smallest part that fails:\n  {}",
                counterexample.keys,
                history.describe(counterexample.first_illegal),
                counterexample.lines.join("\n  ")
            ),
        )),
        Verdict::Undecided => {
            let parts = report.undecided_parts.iter();
            let parts: Vec<String> = parts
                .map(|part| format!("{:?} ({} operations)", part.keys, part.operations))
                .collect();
            Err(Violation::new("linearizability", format!("undecided: {}", parts.join(", "))))
        }
    }
}
