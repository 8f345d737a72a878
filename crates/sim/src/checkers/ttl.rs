//! Keys with a time to live (rule R12): what is gone stays gone, nobody sees a value that was
//! never set, and with clocks that are right nothing goes before its time.
//!
//! Each such key is set once in a run.

use std::collections::BTreeMap;

use super::Violation;
use crate::history::{TtlEvent, TtlWhat};
use crate::queue::SimTime;

/// What clocks that are right may differ by, with the rounding to milliseconds.
const SLACK_US: u64 = 2_000;

/// All keys with a TTL.
pub fn check(
    keys: &BTreeMap<String, Vec<TtlEvent>>,
    clocks_are_right: bool,
) -> Result<(), Violation> {
    keys.iter().try_for_each(|(key, events)| check_key(key, events, clocks_are_right))
}

fn check_key(key: &str, events: &[TtlEvent], clocks_are_right: bool) -> Result<(), Violation> {
    let set = events.iter().find_map(|event| match &event.what {
        TtlWhat::Set(value, ms) => Some((event, value, *ms)),
        TtlWhat::Read(_) | TtlWhat::Left(_) => None,
    });
    // When it was certainly set, and when it was first certainly gone again.
    let set_by = set.and_then(|(event, ..)| event.returned).unwrap_or(SimTime::NEVER);
    let gone_by = events
        .iter()
        .filter(|event| event.what == TtlWhat::Read(None) && event.called >= set_by)
        .filter_map(|event| event.returned)
        .min()
        .unwrap_or(SimTime::NEVER);
    for event in events {
        let Some(returned) = event.returned else { continue };
        match (&event.what, set) {
            (TtlWhat::Read(Some(value)), Some((_, set, _))) if value != set => {
                return Err(violation(key, event, &format!("it was set to {set}")));
            }
            (TtlWhat::Left(left), Some((.., ms))) if *left > ms => {
                return Err(violation(key, event, &format!("it was set for {ms} ms")));
            }
            (TtlWhat::Read(Some(_)) | TtlWhat::Left(_), None) => {
                return Err(violation(key, event, "it was never set"));
            }
            (TtlWhat::Read(Some(_)) | TtlWhat::Left(_), Some((set, ..)))
                if returned < set.called =>
            {
                return Err(violation(key, event, "it was not set yet"));
            }
            (TtlWhat::Read(Some(_)) | TtlWhat::Left(_), _) if event.called > gone_by => {
                return Err(violation(key, event, &format!("it was seen to be gone at {gone_by}")));
            }
            (TtlWhat::Read(None), Some((set, _, ms)))
                if clocks_are_right
                    && event.called >= set_by
                    && returned.us_since(set.called) + SLACK_US < ms * 1_000 =>
            {
                return Err(violation(
                    key,
                    event,
                    &format!("it lives for {ms} ms from {}", set.called),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn violation(key: &str, event: &TtlEvent, why: &str) -> Violation {
    let TtlEvent { called, returned, what } = event;
    Violation::new("ttl", format!("{key}: {what:?} from {called} to {returned:?}, but {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(called: u64, returned: u64, what: TtlWhat) -> TtlEvent {
        TtlEvent {
            called: SimTime::from_ms(called),
            returned: Some(SimTime::from_ms(returned)),
            what,
        }
    }

    fn verdict(reads: &[(u64, u64, Option<&str>)]) -> bool {
        let mut events = vec![event(10, 20, TtlWhat::Set("v".into(), 100))];
        for (called, returned, value) in reads {
            events.push(event(*called, *returned, TtlWhat::Read(value.map(str::to_owned))));
        }
        check_key("t", &events, true).is_ok()
    }

    #[test]
    fn a_key_is_there_for_its_time_and_then_never_again() {
        assert!(verdict(&[(5, 15, None), (15, 30, Some("v")), (130, 140, None)]));
        assert!(verdict(&[(200, 240, Some("v"))]), "it may go later than its time");
        let left = |ms| event(30, 40, TtlWhat::Left(ms));
        let set = event(10, 20, TtlWhat::Set("v".into(), 100));
        assert!(check_key("t", &[set.clone(), left(90)], true).is_ok());
        assert!(check_key("t", &[set, left(101)], true).is_err(), "more than it was given");
        assert!(!verdict(&[(30, 40, Some("w"))]), "another value");
        assert!(!verdict(&[(1, 5, Some("v"))]), "before it was set");
        assert!(!verdict(&[(30, 40, None)]), "too early");
        assert!(!verdict(&[(130, 140, None), (150, 160, Some("v"))]), "back again");
    }
}
