//! The table of rows for people, beside the figures of others, and one JSON object a row for
//! programs.

use std::fmt::{self, Write};
use std::time::Duration;

use super::lab::{SYNC_US, TURN_US};
use super::network::HOP_US;
use super::pace::Pace;
use super::reference::{Figures, Reference};
use super::runner::RowReport;

/// What the figures rest on, in one paragraph above the table.
pub fn preface() -> String {
    format!(
        "Virtual time: a hop takes {} ms, a sync {} ms, a turn of a server {} ms.\n2A to 2D: {}.\n3A, \
         3B, difficulties: {}.\nAn RPC is a request, of a \
         server or a clerk, lost or not; bytes are of requests sent and replies delivered.\nWith \
         several seeds the figures are medians. \"ref\" is the same design in Go, one run in real \
         time (key/value rows: release build); \"rep\" is what its authors reported. A row is worse \
         in RPCs if it needs more of them an operation, and in ops if it has fewer although its \
         network is unreliable.\n",
        HOP_US as f64 / 1e3,
        SYNC_US as f64 / 1e3,
        TURN_US as f64 / 1e3,
        Pace::OF_CONSENSUS,
        Pace::OF_SERVICE,
    )
}

/// The table of all reports, which are in the order of rows.
pub fn table(reports: &[RowReport]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:5} {:63} {:>7} {:>6} {:>3} {:>7} {:>10} {:>7} | {:>6} {:>7} {:>9} {:>6} | {:>5} {:>7} {:>6} | \
         {:>8} {:>8} worse in",
        "suite",
        "test",
        "result",
        "s",
        "srv",
        "RPCs",
        "bytes",
        "ops",
        "ref: s",
        "RPCs",
        "bytes",
        "ops",
        "rep s",
        "RPCs",
        "ops",
        "RPCs/op",
        "ref's"
    );
    for runs in by_row(reports) {
        let _ = writeln!(out, "{}", Line::of(runs));
    }
    out
}

fn by_row(reports: &[RowReport]) -> impl Iterator<Item = &[RowReport]> {
    reports.chunk_by(|a, b| (a.suite, a.test) == (b.suite, b.test))
}

/// One row of the table: the medians of all seeds, beside the figures of others.
struct Line<'a> {
    runs: &'a [RowReport],
    reference: Option<&'static Reference>,
    seconds: f64,
    rpcs: u64,
    bytes: u64,
    ops: u64,
}

impl<'a> Line<'a> {
    fn of(runs: &'a [RowReport]) -> Self {
        let median = |of: fn(&RowReport) -> u64| {
            let mut values: Vec<u64> = runs.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Self {
            runs,
            reference: Reference::of(runs[0].suite, runs[0].test),
            seconds: median(|report| report.costs.virtual_us) as f64 / 1e6,
            rpcs: median(|report| report.costs.traffic.rpcs),
            bytes: median(|report| report.costs.traffic.bytes),
            ops: median(|report| report.costs.ops),
        }
    }

    fn rpcs_an_op(&self) -> f64 {
        self.rpcs as f64 / self.ops.max(1) as f64
    }

    fn here(&self) -> Option<Figures> {
        self.reference.and_then(|reference| reference.here)
    }

    fn rpcs_an_op_here(&self) -> Option<f64> {
        let here = self.here()?;
        here.rpcs.map(|rpcs| rpcs as f64 / here.ops.max(1) as f64)
    }

    /// In what the reference is better: RPCs an operation, and on an unreliable network, where
    /// protocols wait and processors do not, operations.
    fn worse_in(&self) -> Vec<&'static str> {
        let unreliable = self.runs[0].test.contains("unreliable");
        let more_rpcs = self.rpcs_an_op_here().is_some_and(|theirs| self.rpcs_an_op() > theirs);
        let fewer_ops = unreliable && self.here().is_some_and(|here| self.ops < here.ops);
        let marks = [(more_rpcs, "RPCs"), (fewer_ops, "ops")];
        marks.into_iter().filter(|(worse, _)| *worse).map(|(_, name)| name).collect()
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.runs[0];
        let passed = self.runs.iter().filter(|report| report.failure.is_none()).count();
        let result = match (passed, self.runs.len()) {
            (1, 1) => "pass".to_owned(),
            (0, 1) => "FAIL".to_owned(),
            (passed, all) => format!("{passed}/{all}"),
        };
        let theirs = self.rpcs_an_op_here();
        write!(
            f,
            "{:5.5} {:63.63} {result:>7} {:>6.1} {:>3} {:>7} {:>10} {:>7} | {} | {} | {:>8.2} {:>8} {}",
            first.suite,
            first.test,
            self.seconds,
            first.servers,
            self.rpcs,
            self.bytes,
            self.ops,
            columns(self.here(), true),
            columns(self.reference.and_then(|reference| reference.report), false),
            self.rpcs_an_op(),
            theirs.map_or_else(|| "-".to_owned(), |theirs| format!("{theirs:.2}")),
            self.worse_in().join(", "),
        )
    }
}

fn columns(figures: Option<Figures>, with_bytes: bool) -> String {
    let number = |value: Option<u64>, width: usize| {
        value.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$}"))
    };
    let seconds_width = if with_bytes { 6 } else { 5 };
    let seconds = figures.map_or_else(
        || format!("{:>seconds_width$}", "-"),
        |figures| format!("{:>seconds_width$.1}", figures.seconds),
    );
    let rpcs = number(figures.and_then(|figures| figures.rpcs), 7);
    let ops = number(figures.map(|figures| figures.ops), 6);
    if with_bytes {
        let bytes = number(figures.and_then(|figures| figures.bytes), 9);
        format!("{seconds} {rpcs} {bytes} {ops}")
    } else {
        format!("{seconds} {rpcs} {ops}")
    }
}

/// How it went, in a few lines, with what failed and how to run it again.
pub fn summary(reports: &[RowReport], wall: Duration) -> String {
    let failed: Vec<&RowReport> = reports.iter().filter(|r| r.failure.is_some()).collect();
    let mut out = String::new();
    for report in &failed {
        let RowReport { suite, test, seed, failure, .. } = report;
        let chunks = if report.tiny_chunks { " --tiny-chunks" } else { "" };
        let why = failure.as_deref().unwrap_or_default();
        let _ = writeln!(out, "FAIL {suite} {test}, seed {seed}: {why}");
        let _ = writeln!(
            out,
            "  sampan-sim labs {suite} --test '{test}' --from {seed}{chunks} --trace"
        );
    }
    let rows = by_row(reports).count();
    let worse = by_row(reports).filter(|runs| !Line::of(runs).worse_in().is_empty()).count();
    let virtual_s: f64 = reports.iter().map(|r| r.costs.virtual_us as f64 / 1e6).sum();
    let ops: u64 = reports.iter().map(|r| r.costs.ops).sum();
    let runs = reports.len();
    let _ = write!(
        out,
        "{} of {runs} runs passed ({rows} rows, {worse} worse than the reference); {virtual_s:.0} \
         virtual s, {ops} operations, {:.1} s",
        runs - failed.len(),
        wall.as_secs_f64()
    );
    out
}

/// One JSON object, on one line.
pub fn json(report: &RowReport) -> String {
    let Costs { virtual_us, traffic, ops } = report.costs;
    let failure = report.failure.as_ref().map(|why| format!(",\"failure\":{}", quoted(why)));
    format!(
        "{{\"suite\":{},\"test\":{},\"passed\":{},\"seed\":{},\"virtual_s\":{:.6},\"servers\":{},\
         \"rpcs\":{},\"bytes\":{},\"ops\":{ops},\"hash\":\"{:016x}\"{}}}",
        quoted(report.suite),
        quoted(report.test),
        report.failure.is_none(),
        report.seed,
        virtual_us as f64 / 1e6,
        report.servers,
        traffic.rpcs,
        traffic.bytes,
        report.hash,
        failure.unwrap_or_default()
    )
}

use super::lab::Costs;

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
