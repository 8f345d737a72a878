//! What one thread counts: latencies, errors by kind, connections lost. Read by the main thread
//! once an interval, so it is behind a lock that is hardly ever waited for.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::mix::Op;

/// Kinds of errors told apart; the texts come from servers.
const KINDS_MAX: usize = 64;
/// Longest name of a kind.
const KIND_CHARS_MAX: usize = 80;

/// A command on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) op: Op,
    /// The moment its latency counts from, in nanoseconds since the start.
    pub(crate) from_ns: u64,
}

/// How many times each kind of thing happened.
pub(crate) type Kinds = BTreeMap<String, u64>;

/// The counts of one thread.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Commands that began before this are answered, and not measured.
    measured_from_ns: u64,
    /// Answered and measured, by command, in nanoseconds.
    latency_ns: [Option<Histogram<u64>>; Op::ALL.len()],
    /// All that was answered since the main thread last looked.
    interval_ns: Histogram<u64>,
    interval_failed: u64,
    pub(crate) answered: u64,
    pub(crate) in_warm_up: u64,
    /// `GET`s that found nothing.
    pub(crate) misses: u64,
    pub(crate) errors: Kinds,
    pub(crate) connections_lost: Kinds,
    /// When the last answer came.
    pub(crate) last_ns: u64,
}

/// A day: no run is longer, so no latency is.
const LATENCY_NS_MAX: u64 = 86_400_000_000_000;

/// A histogram of nanoseconds, exact to a tenth of a percent.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("valid bounds")
}

impl Tally {
    pub(crate) fn new(measured_from_ns: u64) -> Self {
        Self {
            measured_from_ns,
            latency_ns: [const { None }; Op::ALL.len()],
            interval_ns: histogram(),
            interval_failed: 0,
            answered: 0,
            in_warm_up: 0,
            misses: 0,
            errors: Kinds::new(),
            connections_lost: Kinds::new(),
            last_ns: 0,
        }
    }

    /// A command was answered as it should be.
    pub(crate) fn answered(&mut self, sent: Sent, now_ns: u64) {
        let latency_ns = now_ns.saturating_sub(sent.from_ns);
        self.interval_ns.saturating_record(latency_ns);
        self.last_ns = self.last_ns.max(now_ns);
        if sent.from_ns < self.measured_from_ns {
            self.in_warm_up += 1;
            return;
        }
        self.answered += 1;
        self.latency_ns[sent.op as usize]
            .get_or_insert_with(histogram)
            .saturating_record(latency_ns);
    }

    /// So many commands were answered with an error, or not at all.
    pub(crate) fn failed(&mut self, kind: &str, commands: u64) {
        self.interval_failed += commands;
        count(&mut self.errors, kind, commands);
    }

    /// A connection broke, or could not be made.
    pub(crate) fn connection_lost(&mut self, why: &str) {
        count(&mut self.connections_lost, why, 1);
    }

    /// What happened since the last call: latencies, and how many commands failed.
    pub(crate) fn take_interval(&mut self, into: &mut Histogram<u64>) -> u64 {
        into.add(&self.interval_ns).expect("histograms of one range");
        self.interval_ns.reset();
        std::mem::take(&mut self.interval_failed)
    }

    /// The latencies measured, by command.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (Op, &Histogram<u64>)> {
        Op::ALL.into_iter().zip(&self.latency_ns).filter_map(|(op, of)| Some((op, of.as_ref()?)))
    }
}

fn count(kinds: &mut Kinds, kind: &str, times: u64) {
    if times == 0 {
        return;
    }
    let has_room = kinds.len() < KINDS_MAX || kinds.contains_key(kind);
    let kind = if has_room { kind } else { "other" };
    *kinds.entry(kind.to_owned()).or_default() += times;
}

/// The kind of a server's error: its code, or the text if the code says nothing.
pub(crate) fn kind_of(error: &str) -> &str {
    let code = error.split(' ').next().unwrap_or_default();
    let kind = if code == "ERR" { error } else { code };
    kind.char_indices().nth(KIND_CHARS_MAX).map_or(kind, |(end, _)| &kind[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_the_moment_a_command_was_due() {
        let mut tally = Tally::new(1_000);
        tally.answered(Sent { op: Op::Get, from_ns: 999 }, 5_000);
        tally.answered(Sent { op: Op::Get, from_ns: 1_000 }, 6_000);
        tally.answered(Sent { op: Op::Set, from_ns: 2_000 }, 9_000);
        assert_eq!((tally.answered, tally.in_warm_up, tally.last_ns), (2, 1, 9_000));
        let took_ns = [(Op::Get, 5_000), (Op::Set, 7_000)];
        assert!(tally.latencies().zip(took_ns).all(|((op, of), (of_op, want_ns))| {
            op == of_op && of.len() == 1 && of.equivalent(of.max(), want_ns)
        }));
        assert_eq!(tally.latencies().count(), 2);
    }

    #[test]
    fn an_interval_is_taken_once_and_has_the_warm_up_too() {
        let mut tally = Tally::new(u64::MAX);
        tally.answered(Sent { op: Op::Get, from_ns: 0 }, 100);
        tally.failed("closed", 3);
        let mut taken = histogram();
        assert_eq!(tally.take_interval(&mut taken), 3);
        assert_eq!(taken.len(), 1);
        assert_eq!(tally.take_interval(&mut taken), 0);
        assert_eq!(taken.len(), 1);
    }

    #[test]
    fn errors_are_told_apart_by_their_code_and_kinds_are_bounded() {
        assert_eq!(kind_of("CLUSTERDOWN no leader for 400 ms"), "CLUSTERDOWN");
        assert_eq!(kind_of("ERR value is not an integer"), "ERR value is not an integer");
        for start in ["ERR ", ""] {
            let long = format!("{start}{}", "é".repeat(100));
            assert_eq!(kind_of(&long).chars().count(), KIND_CHARS_MAX);
        }
        let mut tally = Tally::new(0);
        for number in 0..1_000 {
            tally.failed(&format!("kind {number}"), 1);
        }
        assert_eq!(tally.errors.len(), KINDS_MAX + 1);
        assert_eq!(tally.errors.values().sum::<u64>(), 1_000);
    }
}
