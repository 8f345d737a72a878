//! What a check says: the verdict, the counterexample, and the figures, for programs and (by
//! `Display`) for people.

use std::fmt;
use std::time::Duration;

use crate::decide::Method;
use crate::history::OperationId;
use crate::witness::Refusal;

/// Whether a history is linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is: for every part there is an order, and it was replayed.
    Linearizable,
    /// It is not.
    NotLinearizable(Box<Counterexample>),
    /// No part was found that fails, and for some the steps were used up. This is no pass.
    Undecided,
}

/// Why a history is not linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The keys of the failing part, sorted by name.
    pub keys: Vec<String>,
    /// The operation that fits nowhere: its return ends the shortest prefix that fails. Of several
    /// failing parts this is the one where that return is earliest.
    pub first_illegal: OperationId,
    /// An order of what was known before that return: the longest legal prefix. Open operations
    /// that nothing shows are not in it. Empty also if the search for it gave up.
    pub legal_prefix: Vec<OperationId>,
    /// The operations that suffice: there is no order of these, in the order of their calls.
    pub smallest: Vec<Needed>,
    /// The keys that suffice, sorted: steps on other keys are not needed.
    pub smallest_keys: Vec<String>,
    /// The smallest part fails whatever the keys held before it.
    pub from_any_state: bool,
    /// No operation can be left out of the smallest part by the reductions known; else the work
    /// allowed was used up.
    pub is_minimal: bool,
    /// One line for each operation of the smallest part.
    pub lines: Vec<String>,
}

/// An operation of the smallest failing part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// The operation.
    pub id: OperationId,
    /// There is no order even if it is taken to have no return: it may come at any time from its
    /// call on, or never.
    pub open: bool,
}

/// A part whose log indices are not an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FalseClaim {
    /// Its keys, sorted by name.
    pub keys: Vec<String>,
    /// Where the claim breaks.
    pub refusal: Refusal,
    /// The same for people.
    pub line: String,
}

/// A part that no path decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndecidedPart {
    /// Its keys, sorted by name.
    pub keys: Vec<String>,
    /// How many operations it has.
    pub operations: usize,
    /// How many steps were made.
    pub steps: u64,
}

/// How much was checked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Operations in the history.
    pub operations: usize,
    /// Of these, answered.
    pub ok: usize,
    /// Certainly not applied: left out.
    pub failed: usize,
    /// Of unknown outcome: kept open for ever; reads left out.
    pub unknown: usize,
    /// Operations in the parts.
    pub checked: usize,
    /// Clients.
    pub clients: usize,
    /// Keys.
    pub keys: usize,
    /// Groups of keys that were decided alone.
    pub parts: usize,
    /// Linearizable parts by the way that showed it, in the order of [`Method::ALL`].
    pub parts_by_method: [usize; 4],
    /// Attempts to place an operation, over all searches.
    pub steps: u64,
}

/// How long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Reading the history.
    pub read: Duration,
    /// Checking it.
    pub check: Duration,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// The figures.
    pub counts: Counts,
    /// How many parts are not linearizable; the verdict shows one.
    pub failing_parts: usize,
    /// Parts that were not decided.
    pub undecided_parts: Vec<UndecidedPart>,
    /// Parts where the store's own log indices are no order. The verdict does not rest on them; but
    /// a store that claims a false order has a fault even where another order exists.
    pub false_claims: Vec<FalseClaim>,
    /// Filled by [`run_file`](crate::run_file).
    pub timings: Timings,
}

impl Report {
    /// Whether the history passes. Undecided is no pass.
    pub fn is_linearizable(&self) -> bool {
        self.verdict == Verdict::Linearizable
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizable => "linearizable",
            Self::NotLinearizable(_) => "not linearizable",
            Self::Undecided => "undecided",
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Witness => "log index",
            Self::Unique => "unique values",
            Self::Merge => "merged keys",
            Self::Search => "search",
        })
    }
}

/// How many entries of a list are printed.
const LISTED_MAX: usize = 20;

/// Names in a row, the first few of many.
pub(crate) fn listed(names: &[String]) -> String {
    let first = names[..names.len().min(LISTED_MAX)].join(", ");
    if names.len() <= LISTED_MAX { first } else { format!("{first}, … ({} in all)", names.len()) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verdict: {}", self.verdict)?;
        self.fmt_counts(f)?;
        if let Verdict::NotLinearizable(counterexample) = &self.verdict {
            write!(f, "{counterexample}")?;
        }
        for part in self.undecided_parts.iter().take(LISTED_MAX) {
            let UndecidedPart { keys, operations, steps } = part;
            let keys = listed(keys);
            writeln!(f, "undecided: {operations} operations on {keys} after {steps} steps")?;
        }
        for claim in self.false_claims.iter().take(LISTED_MAX) {
            let keys = listed(&claim.keys);
            writeln!(f, "false log indices on {keys}: {}", claim.line)?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { operations, ok, failed, unknown, clients, keys, parts, .. } = self.counts;
        writeln!(
            f,
            "history: {operations} operations ({ok} ok, {unknown} unknown, {failed} failed), {clients} clients, {keys} keys"
        )?;
        write!(f, "parts: {parts}")?;
        for (method, count) in Method::ALL.iter().zip(self.counts.parts_by_method) {
            if count > 0 {
                write!(f, ", {count} by {method}")?;
            }
        }
        for (count, what) in
            [(self.failing_parts, "not linearizable"), (self.undecided_parts.len(), "undecided")]
        {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(f, "; {} steps of search", self.counts.steps)?;
        let Timings { read, check } = self.timings;
        if !read.is_zero() || !check.is_zero() {
            writeln!(
                f,
                "time: {:.2} s to read, {:.2} s to check",
                read.as_secs_f64(),
                check.as_secs_f64()
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "keys: {}", listed(&self.keys))?;
        writeln!(
            f,
            "the longest legal prefix has {} operations; operation {} is the first that fits nowhere",
            self.legal_prefix.len(),
            self.first_illegal.0
        )?;
        let minimal = if self.is_minimal { "" } else { " found" };
        let start = if self.from_any_state { ", whatever was there before" } else { "" };
        let keys = listed(&self.smallest_keys);
        writeln!(f, "smallest failing part{minimal}: no order of these on {keys}{start}:")?;
        for (needed, line) in self.smallest.iter().zip(&self.lines).take(LISTED_MAX) {
            let mark = if needed.id == self.first_illegal { '✗' } else { ' ' };
            let open = if needed.open { " (or never)" } else { "" };
            writeln!(f, "  {mark} {line}{open}")?;
        }
        if self.smallest.len() > LISTED_MAX {
            writeln!(f, "    … and {} more", self.smallest.len() - LISTED_MAX)?;
        }
        Ok(())
    }
}
