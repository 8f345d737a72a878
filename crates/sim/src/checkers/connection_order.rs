//! Order on a connection: its commands take effect in the order sent, whichever node they are sent
//! to, whoever leads meanwhile; and what it reads, stale or not, never goes back behind what it was
//! told.
//!
//! A list grows only at its end, and so tells in which order its appends took effect, and of every
//! state of it that was read, when it was. An append that was sent more than once, or whose outcome
//! is unknown, proves nothing: it may have taken effect at any time.

use std::collections::BTreeMap;

use sampan_base::LogIndex;

use super::Violation;
use crate::history::{Told, ToldWhat};

/// Holds what every connection was told against what lists hold in the end.
pub fn check(told: &mut [Told], finals: &BTreeMap<String, String>) -> Result<(), Violation> {
    let places = places(finals);
    told.sort_by_key(|told| (told.connection, told.seq));
    let mut connections = told.chunk_by(|a, b| a.connection == b.connection);
    connections.try_for_each(|told| check_connection(told, finals, &places))
}

/// Where each token of each list begins.
fn places(finals: &BTreeMap<String, String>) -> BTreeMap<(&str, &str), usize> {
    let mut places = BTreeMap::new();
    for (key, list) in finals {
        let mut at = 0;
        for token in list.split_inclusive(',') {
            places.insert((key.as_str(), token), at);
            at += token.len();
        }
    }
    places
}

fn check_connection(
    told: &[Told],
    finals: &BTreeMap<String, String>,
    places: &BTreeMap<(&str, &str), usize>,
) -> Result<(), Violation> {
    let mut known_at = LogIndex::ZERO;
    // How much of each list the connection knows of.
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for told in told {
        let is_read = matches!(told.what, ToldWhat::List(..) | ToldWhat::Read);
        if is_read && told.decided_at < known_at {
            return Err(violation(told, &format!("it was told of index {known_at}")));
        }
        // Of appends the list itself tells: one that was done before is answered at what is applied
        // by now.
        if !matches!(told.what, ToldWhat::Appended(..)) {
            known_at = known_at.max(told.decided_at);
        }
        let (key, from, to) = match &told.what {
            ToldWhat::Appended(key, token) => {
                let Some(from) = places.get(&(key.as_str(), token.as_str())) else { continue };
                (key, *from, from + token.len())
            }
            ToldWhat::List(key, list) => {
                if !finals.get(key).map_or("", String::as_str).starts_with(list.as_str()) {
                    return Err(violation(told, "the list never was that"));
                }
                (key, list.len(), list.len())
            }
            ToldWhat::Read | ToldWhat::Written => continue,
        };
        let known = known.entry(key).or_default();
        if from < *known {
            return Err(violation(told, &format!("it knew of {known} bytes of {key}")));
        }
        *known = to;
    }
    Ok(())
}

fn violation(told: &Told, why: &str) -> Violation {
    let Told { connection, seq, decided_at, what } = told;
    let detail = format!("c{connection} #{seq}: {what:?} at {decided_at}, but {why}");
    Violation::new("connection-order", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(token: &str) -> ToldWhat {
        ToldWhat::Appended("l".into(), token.into())
    }

    fn read(list: &str) -> ToldWhat {
        ToldWhat::List("l".into(), list.into())
    }

    /// On one connection, each answer at its index.
    fn verdict(answers: &[(u64, ToldWhat)]) -> bool {
        let finals = BTreeMap::from([("l".to_owned(), "a,b,c,".to_owned())]);
        let told = answers.iter().zip(1..).map(|((index, what), seq)| Told {
            connection: 7,
            seq,
            decided_at: LogIndex(*index),
            what: what.clone(),
        });
        check(&mut told.collect::<Vec<_>>(), &finals).is_ok()
    }

    #[test]
    fn what_a_connection_was_told_never_goes_back() {
        assert!(verdict(&[(1, append("a,")), (2, append("b,")), (2, read("a,b,"))]));
        assert!(verdict(&[(0, read("")), (5, append("c,"))]), "others write too");
        assert!(!verdict(&[(2, append("b,")), (1, append("a,"))]), "overtaken");
        assert!(!verdict(&[(2, append("b,")), (2, read("a,"))]), "behind its own write");
        assert!(!verdict(&[(3, read("a,b,")), (3, read("a,"))]), "back");
        assert!(!verdict(&[(2, read("a,b,")), (2, append("b,"))]), "it saw what comes after it");
        assert!(!verdict(&[(1, read("b,"))]), "never");
        assert!(!verdict(&[(9, ToldWhat::Written), (8, ToldWhat::Read)]), "behind another key");
        assert!(verdict(&[(9, append("a,")), (8, ToldWhat::Read)]), "done before");
    }
}
