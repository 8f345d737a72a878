//! The table of rows for people, beside the figures of others, and one JSON object a row for
//! programs.

use std::fmt::Write;
use std::time::Duration;

use super::lab::{ELECTION_MS, HEARTBEAT_MS, SYNC_US, TURN_US};
use super::network::HOP_US;
use super::reference::{Figures, Reference};
use super::runner::RowReport;

/// What the figures rest on, in one paragraph above the table.
pub fn preface() -> String {
    let (shortest, longest) = ELECTION_MS;
    format!(
        "Virtual time: a hop takes {} ms, a sync {} ms, a turn of a server {} ms; heartbeats every \
         {HEARTBEAT_MS} ms, election timeouts {shortest} to {longest} ms.\nAn RPC is a request, of a \
         server or a clerk, lost or not; bytes are of requests sent and replies delivered.\nWith \
         several seeds the figures are medians. \"ref\" is the same design in Go, one run in real \
         time (key/value rows: release build); \"report\" is what its authors printed.\n",
        HOP_US as f64 / 1e3,
        SYNC_US as f64 / 1e3,
        TURN_US as f64 / 1e3,
    )
}

/// The table of all reports, which are in the order of rows.
pub fn table(reports: &[RowReport]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:>84} | {:>36} | {:>20} | {:>19}", "", "ref", "report", "RPCs an op");
    let _ = writeln!(
        out,
        "{:5} {:39.39} {:>7} {:>6} {:>3} {:>7} {:>10} {:>7} | {:>6} {:>7} {:>9} {:>6} {:>4} | {:>5} {:>7} {:>6} | {:>8} {:>8}",
        "suite",
        "test",
        "result",
        "s",
        "srv",
        "RPCs",
        "bytes",
        "ops",
        "s",
        "RPCs",
        "bytes",
        "ops",
        "",
        "s",
        "RPCs",
        "ops",
        "ours",
        "ref"
    );
    for row in reports.chunk_by(|a, b| (a.suite, a.test) == (b.suite, b.test)) {
        let _ = writeln!(out, "{}", line(row));
    }
    out
}

fn line(row: &[RowReport]) -> String {
    let first = &row[0];
    let passed = row.iter().filter(|report| report.failure.is_none()).count();
    let result = match (passed, row.len()) {
        (1, 1) => "pass".to_owned(),
        (0, 1) => "FAIL".to_owned(),
        (passed, all) => format!("{passed}/{all}"),
    };
    let median = |of: fn(&RowReport) -> u64| {
        let mut values: Vec<u64> = row.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let seconds = median(|report| report.costs.virtual_us) as f64 / 1e6;
    let rpcs = median(|report| report.costs.traffic.rpcs);
    let bytes = median(|report| report.costs.traffic.bytes);
    let ops = median(|report| report.costs.ops);
    let reference = Reference::of(first.suite, first.test);
    let here = reference.and_then(|reference| reference.here);
    let report = reference.and_then(|reference| reference.report);
    let ours_an_op = rpcs as f64 / ops.max(1) as f64;
    let ref_an_op = here.and_then(|f| f.rpcs.map(|rpcs| rpcs as f64 / f.ops.max(1) as f64));
    let more = if ref_an_op.is_some_and(|theirs| ours_an_op > theirs) { " more" } else { "" };
    format!(
        "{:5} {:39.39} {result:>7} {seconds:>6.1} {:>3} {rpcs:>7} {bytes:>10} {ops:>7} | {} {:>4} | {} | {ours_an_op:>8.2} {}{more}",
        first.suite.get(..5).unwrap_or(first.suite),
        first.test,
        first.servers,
        columns(here, true),
        "",
        columns(report, false),
        ref_an_op.map_or_else(|| format!("{:>8}", "-"), |theirs| format!("{theirs:>8.2}")),
    )
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
        let why = failure.as_deref().unwrap_or_default();
        let _ = writeln!(out, "FAIL {suite} {test}, seed {seed}: {why}");
        let _ = writeln!(out, "  sampan-sim labs {suite} --test '{test}' --from {seed} --trace");
    }
    let rows = reports.chunk_by(|a, b| (a.suite, a.test) == (b.suite, b.test)).count();
    let virtual_s: f64 = reports.iter().map(|r| r.costs.virtual_us as f64 / 1e6).sum();
    let ops: u64 = reports.iter().map(|r| r.costs.ops).sum();
    let runs = reports.len();
    let _ = write!(
        out,
        "{} of {runs} runs passed ({rows} rows); {virtual_s:.0} virtual s, {ops} operations, {:.1} s",
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
