//! What clerks were told, for the linearizability check of `sampan-lincheck`.

use std::borrow::Cow;

use sampan_lincheck::{Action, History, Operation, Options, Status, Step, Verdict, check};

use crate::queue::SimTime;

use super::lab::{Outcome, fail};

/// When an operation was called and when it returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) called: SimTime,
    pub(crate) returned: SimTime,
}

/// The record of a run.
#[derive(Default)]
pub(crate) struct Record {
    history: History,
}

/// How much searching a history may take: far more than any needs that is linearizable.
const STEPS_MAX: u64 = 20_000_000;

impl Record {
    /// Notes an operation that has ended.
    pub(crate) fn push(&mut self, client: u64, key: &str, span: Span, action: Action<&str>) {
        let key = self.history.key(key);
        let action = match action {
            Action::Get { out } => {
                Action::Get { out: out.map(|seen| seen.map(|value| self.history.value(value))) }
            }
            Action::Put { value } => Action::Put { value: self.history.value(value) },
            Action::Append { value, out } => {
                Action::Append { value: self.history.value(value), out }
            }
            other => panic!("clerks of the labs do not know {other:?}"),
        };
        let operation = Operation {
            client,
            call_ns: span.called.0 * 1_000,
            return_ns: Some(span.returned.0 * 1_000),
            status: Status::Ok,
            witness: None,
        };
        self.history.push(operation, &[Step { key, action }]);
    }

    /// Fails unless the history is linearizable. Undecided is a failure.
    pub(crate) fn check(&self) -> Outcome {
        let options = Options { threads: 1, steps_max: STEPS_MAX, ..Options::default() };
        let report = check(&self.history, &options);
        match &report.verdict {
            Verdict::Linearizable => Ok(()),
            Verdict::NotLinearizable(why) => {
                fail(format!("the history is not linearizable:\n    {}", why.lines.join("\n    ")))
            }
            Verdict::Undecided => fail("whether the history is linearizable was not decided"),
        }
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
