//! Exactly once: a command that was answered took effect once, one that surely never happened not
//! at all, one of unknown outcome at most once, however often it was sent (thesis 6.3).
//!
//! Every append of a run adds a token that no other one adds, so each list tells how often each of
//! its appends took effect.

use std::collections::BTreeMap;

use sampan_lincheck::Status;

use super::Violation;
use crate::history::Token;

/// Holds what lists hold in the end against what clients were told.
pub fn check(tokens: &[Token], finals: &BTreeMap<String, String>) -> Result<(), Violation> {
    let mut found: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (key, value) in finals {
        for token in value.split_inclusive(',') {
            *found.entry((key, token)).or_default() += 1;
        }
    }
    for Token { key, token, status } in tokens {
        let times = found.remove(&(key.as_str(), token.as_str())).unwrap_or(0);
        let fits = match status {
            Status::Ok => times == 1,
            Status::Fail => times == 0,
            Status::Unknown => times <= 1,
        };
        if !fits {
            let detail =
                format!("{token} is in {key} {times} times; its append ended as {status:?}");
            return Err(Violation::new("exactly-once", detail));
        }
    }
    match found.into_iter().next() {
        None => Ok(()),
        Some(((key, token), _)) => {
            let detail = format!("{token} is in {key} and nobody appended it");
            Err(Violation::new("exactly-once", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(token: &str, status: Status) -> Token {
        Token { key: "l".into(), token: token.into(), status }
    }

    fn verdict(tokens: &[Token], list: &str) -> bool {
        check(tokens, &BTreeMap::from([("l".to_owned(), list.to_owned())])).is_ok()
    }

    #[test]
    fn a_list_tells_lost_doubled_and_phantom_appends() {
        let tokens =
            [token("a,", Status::Ok), token("b,", Status::Fail), token("c,", Status::Unknown)];
        assert!(verdict(&tokens, "a,"));
        assert!(verdict(&tokens, "c,a,"));
        assert!(!verdict(&tokens, ""), "lost");
        assert!(!verdict(&tokens, "a,a,"), "doubled");
        assert!(!verdict(&tokens, "a,b,"), "said to have failed");
        assert!(!verdict(&tokens, "a,c,c,"), "unknown and doubled");
        assert!(!verdict(&tokens, "a,d,"), "from nowhere");
    }
}
