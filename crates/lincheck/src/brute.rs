//! The checker of the checkers, for tests: all orders of a small history, one after the other.
//!
//! It shares nothing with what it judges: it reads the public form of a history and has a model of
//! its own. No order is skipped that could be legal, nothing is remembered, nothing is clever.

use std::collections::BTreeMap;

use crate::{Action, History, OperationId, Status};

/// What keys hold.
pub(crate) type Store = BTreeMap<String, String>;

/// Whether some order of the history explains it, if the keys hold `start` before.
pub(crate) fn is_linearizable(history: &History, start: &Store) -> bool {
    let left = history.ids().filter(|&id| history.operation(id).status != Status::Fail);
    extends(history, start, &left.collect::<Vec<_>>())
}

/// Whether the operations left have an order from `store` on.
fn extends(history: &History, store: &Store, left: &[OperationId]) -> bool {
    let answered = |id: &&OperationId| history.operation(**id).status == Status::Ok;
    let answered: Vec<&OperationId> = left.iter().filter(answered).collect();
    if answered.is_empty() {
        return true;
    }
    let returns = answered.iter().map(|id| history.operation(**id).return_ns);
    let first_return = returns.flatten().min().expect("answered operations return");
    let may_be_next = |id: &&OperationId| history.operation(**id).call_ns <= first_return;
    left.iter().filter(may_be_next).any(|&id| {
        let mut store = store.clone();
        if !run(history, &mut store, id) {
            return false;
        }
        let rest: Vec<OperationId> = left.iter().copied().filter(|&other| other != id).collect();
        extends(history, &store, &rest)
    })
}

/// Runs an operation; false if an answer differs from the one recorded.
fn run(history: &History, store: &mut Store, id: OperationId) -> bool {
    let answered = history.operation(id).status == Status::Ok;
    history.steps(id).iter().all(|step| {
        let key = history.key_name(step.key);
        let text = |value| history.value_text(value).to_owned();
        match step.action {
            Action::Get { out } => {
                let out = out.map(|seen| seen.map(text));
                let mut held = store.get(key).cloned();
                if held.is_none() && !history.tells_missing() {
                    held = Some(String::new());
                }
                !answered || out.is_none_or(|out| out == held)
            }
            Action::Put { value } => {
                store.insert(key.to_owned(), text(value));
                true
            }
            Action::Append { value, out } => {
                let held = store.entry(key.to_owned()).or_default();
                held.push_str(&text(value));
                !answered || out.is_none_or(|out| out == held.len() as u64)
            }
            Action::Incr { delta, out } => {
                let held = store.get(key).map_or("0", String::as_str);
                let number = held.parse::<i64>().ok().filter(|number| number.to_string() == held);
                let sum = number.and_then(|number| number.checked_add(delta));
                if let Some(sum) = sum {
                    store.insert(key.to_owned(), sum.to_string());
                }
                !answered || out.is_none_or(|out| Some(out) == sum)
            }
            Action::Del { out } => {
                let did = store.remove(key).is_some();
                !answered || out.is_none_or(|out| out == did)
            }
            Action::Cas { expect, value, out } => {
                let held = store.get(key).cloned();
                let expect = expect.map(text);
                let blank = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
                let did = if held.is_none() && !history.tells_missing() {
                    blank(&expect)
                } else {
                    held == expect
                };
                if did {
                    store.insert(key.to_owned(), text(value));
                }
                !answered || out.is_none_or(|out| out == did)
            }
        }
    })
}
