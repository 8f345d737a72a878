//! The sequential model: what a key holds and what each action does to it when actions happen one
//! at a time. Everything else in this crate asks whether a concurrent history can be explained by
//! this file.
//!
//! It is not an implementation of any store; it is the specification that a store is held against
//! (Herlihy and Wing, *Linearizability: a correctness condition for concurrent objects*, section
//! 2). There is one `apply`, generic over how a value is held: whole strings for a replay
//! ([`String`]), strings with digests for a search (`Rope`).

/// What one step of an operation does to its key, with what it observed.
///
/// `V` is a value: a number in a [`History`](crate::History), a `&str` in a replay. An output of
/// `None` was not observed and may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action<V> {
    /// Reads the key: `Some(None)` saw that it is missing, `Some(Some(v))` saw `v`.
    Get {
        /// What was read.
        out: Option<Option<V>>,
    },
    /// Sets the key.
    Put {
        /// The new value.
        value: V,
    },
    /// Adds to the end of the key; a missing key counts as empty.
    Append {
        /// What is added.
        value: V,
        /// The length of the result in bytes.
        out: Option<u64>,
    },
    /// Adds to the integer that the key holds; a missing key counts as 0. On a key that holds no
    /// integer (decimal, no sign but `-`, no leading zero, 64 bits), or when the sum overflows,
    /// nothing happens and there is no result.
    Incr {
        /// What is added.
        delta: i64,
        /// The sum.
        out: Option<i64>,
    },
    /// Removes the key.
    Del {
        /// Whether there was one.
        out: Option<bool>,
    },
    /// Sets the key if it holds what is expected.
    Cas {
        /// What the key must hold; `None`: it must be missing.
        expect: Option<V>,
        /// The new value.
        value: V,
        /// Whether it did.
        out: Option<bool>,
    },
}

impl<V: Copy> Action<V> {
    /// The same action on values of another form.
    pub(crate) fn map<W>(self, mut value_of: impl FnMut(V) -> W) -> Action<W> {
        match self {
            Self::Get { out } => Action::Get { out: out.map(|seen| seen.map(value_of)) },
            Self::Put { value } => Action::Put { value: value_of(value) },
            Self::Append { value, out } => Action::Append { value: value_of(value), out },
            Self::Incr { delta, out } => Action::Incr { delta, out },
            Self::Del { out } => Action::Del { out },
            Self::Cas { expect, value, out } => {
                let expect = expect.map(&mut value_of);
                Action::Cas { expect, value: value_of(value), out }
            }
        }
    }

    /// The same action with nothing observed: what is known of one that has not returned.
    pub(crate) fn unobserved(self) -> Self {
        match self {
            Self::Get { .. } => Self::Get { out: None },
            Self::Put { .. } => self,
            Self::Append { value, .. } => Self::Append { value, out: None },
            Self::Incr { delta, .. } => Self::Incr { delta, out: None },
            Self::Del { .. } => Self::Del { out: None },
            Self::Cas { expect, value, .. } => Self::Cas { expect, value, out: None },
        }
    }

    /// Whether it can never change a key, whatever happened.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. })
    }

    /// Whether it changed nothing, given what it observed: reads, and writes that say they did not.
    pub(crate) fn is_inert(&self) -> bool {
        matches!(
            self,
            Self::Get { .. } | Self::Del { out: Some(false) } | Self::Cas { out: Some(false), .. }
        )
    }

    /// Whether its output depends on what was there before.
    pub(crate) fn observes(&self) -> bool {
        match self {
            Self::Get { out } => out.is_some(),
            Self::Put { .. } => false,
            Self::Append { out, .. } => out.is_some(),
            Self::Incr { out, .. } => out.is_some(),
            Self::Del { out } | Self::Cas { out, .. } => out.is_some(),
        }
    }
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State<T> {
    /// No such key.
    Missing,
    /// This value.
    Present(T),
    /// Nothing is known: it stands for every state at once. Only the minimizer starts from it;
    /// whatever cannot be explained from here cannot be explained from any state.
    Any,
}

/// How a value `T` is held, given values `P` of the history.
pub(crate) trait Text<P>: Sized {
    /// Makes `slot` hold `value`.
    fn set(slot: &mut State<Self>, value: P);
    /// The integer as a value.
    fn from_integer(integer: i64) -> Self;
    /// Adds to the end.
    fn push(&mut self, value: P);
    /// Whether it is exactly `value`.
    fn is(&self, value: P) -> bool;
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// The integer that it spells in canonical form, if it does.
    fn integer(&self) -> Option<i64>;
    /// The length of a value of the history in bytes.
    fn length_of(value: P) -> u64;
}

impl Text<&str> for String {
    fn set(slot: &mut State<Self>, value: &str) {
        if let State::Present(text) = slot {
            text.clear();
            text.push_str(value);
        } else {
            *slot = State::Present(value.to_owned());
        }
    }

    fn from_integer(integer: i64) -> Self {
        integer.to_string()
    }

    fn push(&mut self, value: &str) {
        self.push_str(value);
    }

    fn is(&self, value: &str) -> bool {
        self == value
    }

    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn integer(&self) -> Option<i64> {
        canonical_integer(self)
    }

    fn length_of(value: &str) -> u64 {
        value.len() as u64
    }
}

/// The integer that `text` spells exactly as it would be printed.
pub(crate) fn canonical_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if canonical { text.parse().ok() } else { None }
}

/// Applies one action to one key. False: this action cannot have had this output here, and the
/// state is as it was.
///
/// `tells_missing` is false for an API that reads a missing key as the empty string.
pub(crate) fn apply<P: Copy, T: Text<P>>(
    state: &mut State<T>,
    action: &Action<P>,
    tells_missing: bool,
) -> bool {
    match *action {
        Action::Get { out: None } => true,
        Action::Get { out: Some(seen) } => get(state, seen, tells_missing),
        Action::Put { value } => {
            T::set(state, value);
            true
        }
        Action::Append { value, out } => append(state, value, out),
        Action::Incr { delta, out } => incr(state, delta, out),
        Action::Del { out } => {
            let existed = match state {
                State::Missing => Some(false),
                State::Present(_) => Some(true),
                State::Any => None,
            };
            let fits = out.is_none() || existed.is_none() || out == existed;
            if fits {
                *state = State::Missing;
            }
            fits
        }
        Action::Cas { expect, value, out } => {
            let applied = if matches!(state, State::Any) {
                // Whether an unobserved one was applied is as unknown as the state.
                out.unwrap_or(false)
            } else {
                holds(state, expect, tells_missing)
            };
            let fits = out.is_none_or(|out| out == applied);
            if fits && applied {
                T::set(state, value);
            }
            fits
        }
    }
}

fn get<P: Copy, T: Text<P>>(state: &mut State<T>, seen: Option<P>, tells_missing: bool) -> bool {
    if !matches!(state, State::Any) {
        return holds(state, seen, tells_missing);
    }
    match seen {
        None => *state = State::Missing,
        Some(value) if T::length_of(value) == 0 && !tells_missing => {} // missing or empty
        Some(value) => T::set(state, value),
    }
    true
}

/// Whether a known state is `value`, or missing for `None`.
fn holds<P: Copy, T: Text<P>>(state: &State<T>, value: Option<P>, tells_missing: bool) -> bool {
    match (state, value) {
        (State::Present(text), Some(value)) => text.is(value),
        (State::Missing, Some(value)) => !tells_missing && T::length_of(value) == 0,
        (State::Missing, None) => true,
        (State::Present(_), None) => false,
        (State::Any, _) => unreachable!("the callers answer for an unknown state"),
    }
}

fn append<P: Copy, T: Text<P>>(state: &mut State<T>, value: P, out: Option<u64>) -> bool {
    let before = match state {
        State::Missing => 0,
        State::Present(text) => text.length(),
        State::Any => return true,
    };
    if out.is_some_and(|out| out != before + T::length_of(value)) {
        return false;
    }
    match state {
        State::Present(text) => text.push(value),
        State::Missing | State::Any => T::set(state, value),
    }
    true
}

fn incr<P: Copy, T: Text<P>>(state: &mut State<T>, delta: i64, out: Option<i64>) -> bool {
    let before = match state {
        State::Missing => Some(0),
        State::Present(text) => text.integer(),
        State::Any => {
            if let Some(sum) = out {
                *state = State::Present(T::from_integer(sum));
            }
            return true;
        }
    };
    let sum = before.and_then(|before| before.checked_add(delta));
    if out.is_some() && out != sum {
        return false;
    }
    if let Some(sum) = sum {
        *state = State::Present(T::from_integer(sum));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(actions: &[Action<&str>], tells_missing: bool) -> Vec<bool> {
        let mut state = State::<String>::Missing;
        actions.iter().map(|action| apply(&mut state, action, tells_missing)).collect()
    }

    #[test]
    fn a_key_holds_what_was_written_last() {
        let script = [
            Action::Get { out: Some(None) },
            Action::Append { value: "a", out: Some(1) },
            Action::Append { value: "bc", out: Some(3) },
            Action::Get { out: Some(Some("abc")) },
            Action::Get { out: Some(Some("ab")) },
            Action::Put { value: "9" },
            Action::Incr { delta: -2, out: Some(7) },
            Action::Incr { delta: 1, out: Some(7) },
            Action::Get { out: Some(Some("7")) },
            Action::Cas { expect: Some("8"), value: "x", out: Some(true) },
            Action::Cas { expect: Some("8"), value: "x", out: Some(false) },
            Action::Cas { expect: Some("7"), value: "x", out: None },
            Action::Incr { delta: 1, out: None },
            Action::Incr { delta: 1, out: Some(1) },
            Action::Get { out: Some(Some("x")) },
            Action::Del { out: Some(true) },
            Action::Del { out: Some(true) },
            Action::Get { out: Some(Some("")) },
            Action::Cas { expect: None, value: "y", out: Some(true) },
        ];
        let refused = [4, 7, 9, 13, 16, 17];
        let expected: Vec<bool> = (0..script.len()).map(|i| !refused.contains(&i)).collect();
        assert_eq!(run(&script, true), expected);
    }

    #[test]
    fn an_api_that_does_not_tell_missing_from_empty() {
        let script = [
            Action::Get { out: Some(Some("")) },
            Action::Put { value: "" },
            Action::Get { out: Some(Some("")) },
            Action::Get { out: Some(None) },
        ];
        assert_eq!(run(&script, false), [true, true, true, false]);
        assert_eq!(run(&script, true), [false, true, true, false]);
    }

    #[test]
    fn integers_are_canonical() {
        for text in ["0", "7", "-7", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(canonical_integer(text), text.parse().ok(), "{text}");
        }
        for text in ["", "-", "-0", "00", "07", "+7", " 7", "7 ", "1e3", "9223372036854775808"] {
            assert_eq!(canonical_integer(text), None, "{text}");
        }
    }
}
