//! The result of a run: as numbers, as JSON, and as text for people.

use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::plan::{End, Plan, Protocol};
use crate::tally::Kinds;

/// Percentiles reported, beside the least and the most.
const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub plan: Plan,
    /// From the end of the warm-up to the last answer, in seconds; at least the time asked for, or
    /// until the run was ended before its time or count.
    pub measured_seconds: f64,
    /// Commands answered per second of that time.
    pub answered_per_second: f64,
    /// Commands sent, with those of the warm-up.
    pub sent: u64,
    /// Of them: answered without an error, and measured.
    pub answered: u64,
    /// Of them: answered without an error, but begun in the warm-up.
    pub answered_in_warm_up: u64,
    /// Of them: answered with an error or not at all, in the warm-up or later.
    pub failed: u64,
    /// Open loop: commands that were due before the end and never sent, for want of room in the
    /// pipelines. Above zero, the latencies below are too good to be the whole truth.
    pub not_sent: u64,
    /// Of the answered ones, warm-up included: `GET`s that found no such key.
    pub misses: u64,
    /// What failed, by kind.
    pub errors: Kinds,
    /// Connections that broke or could not be made again, by reason.
    pub connections_lost: Kinds,
    /// The run was stopped before its end.
    pub interrupted: bool,
    /// Latencies, of all commands first, then by command if there are several.
    pub latencies: Vec<Latency>,
    /// The run over time, warm-up included.
    pub moments: Vec<Moment>,
}

/// How long commands took, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// `all`, or a command.
    pub of: String,
    /// How many commands.
    pub count: u64,
    /// The shortest.
    pub min_ms: f64,
    /// On average.
    pub mean_ms: f64,
    /// Percentages, ascending, and how long that many took at most.
    pub percentiles_ms: Vec<(f64, f64)>,
    /// The longest.
    pub max_ms: f64,
    /// The whole distribution for a plot: the part of commands above, and the latency.
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, f64)>,
}

/// One interval of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Moment {
    /// When it ended, in seconds since the start of the warm-up.
    pub at_seconds: f64,
    /// Answered without an error, per second.
    pub answered_per_second: f64,
    /// Failed in it.
    pub failed: u64,
    /// The median of the latencies in it, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

fn ms(ns: u64) -> f64 {
    // Microseconds are what a clock of this kind can be trusted with.
    (ns as f64 / 1e3).round() / 1e3
}

impl Latency {
    pub(crate) fn new(of: &str, histogram: &Histogram<u64>) -> Self {
        let at = |percent: f64| ms(histogram.value_at_percentile(percent));
        let mut curve = Vec::new();
        let mut above = 1.0;
        while above >= 1e-5 && above * histogram.len() as f64 >= 1.0 {
            curve.push((above, at(100.0 - above * 100.0)));
            above *= 0.8;
        }
        Self {
            of: of.to_owned(),
            count: histogram.len(),
            min_ms: if histogram.is_empty() { 0.0 } else { ms(histogram.min()) },
            mean_ms: (histogram.mean() / 1e3).round() / 1e3,
            percentiles_ms: PERCENTILES.map(|percent| (percent, at(percent))).to_vec(),
            max_ms: ms(histogram.max()),
            curve,
        }
    }
}

impl Moment {
    pub(crate) fn new(
        at_seconds: f64,
        seconds: f64,
        histogram: &Histogram<u64>,
        failed: u64,
    ) -> Self {
        Self {
            at_seconds,
            answered_per_second: if seconds > 0.0 { histogram.len() as f64 / seconds } else { 0.0 },
            failed,
            p50_ms: ms(histogram.value_at_percentile(50.0)),
            p99_ms: ms(histogram.value_at_percentile(99.0)),
            max_ms: ms(histogram.max()),
        }
    }
}

impl Report {
    /// Something was measured, nothing failed, nothing was left out, and the run came to its end.
    pub fn is_clean(&self) -> bool {
        !self.is_empty()
            && self.failed == 0
            && self.not_sent == 0
            && self.connections_lost.is_empty()
            && !self.interrupted
    }

    /// Nothing was measured: no command was answered, or none that began after the warm-up.
    pub fn is_empty(&self) -> bool {
        self.answered == 0
    }

    /// The whole result as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text")
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A server's text for a terminal, which its control characters must not reach.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |char: char| char.is_control().then(|| char.escape_debug().to_string());
    text.chars().map(|char| escaped(char).unwrap_or_else(|| char.into())).collect()
}

impl Plan {
    /// One line: what is sent, and how.
    pub fn title(&self) -> String {
        let Self { mix, connections, pipeline, keys, distribution, value_bytes, .. } = self;
        let who = match self.protocol {
            Protocol::Resp => "connections",
            Protocol::Clerk => "Clerks",
        };
        let pace = match self.rate {
            Some(rate) => format!("open loop at {}/s", grouped(rate)),
            None => "closed loop".to_owned(),
        };
        let keys = grouped(*keys);
        format!(
            "{mix}, {connections} {who} x {pipeline}, {pace}, {value_bytes}-byte values, \
             {keys} keys {distribution}"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan.title())?;
        writeln!(f, "against {}", self.plan.servers.join(", "))?;
        if self.interrupted {
            writeln!(f, "INTERRUPTED before its end")?;
        }
        if self.is_empty() {
            writeln!(f, "NOTHING MEASURED")?;
        }
        let per_second = grouped(self.answered_per_second.round() as u64);
        let seconds = self.measured_seconds;
        let answered = grouped(self.answered);
        writeln!(f, "\n  {per_second} commands/s: {answered} answered in {seconds:.2} s")?;
        if self.answered_in_warm_up > 0 {
            writeln!(f, "  {} before that in the warm-up", grouped(self.answered_in_warm_up))?;
        }
        if self.misses > 0 {
            writeln!(f, "  {} of all found no such key", grouped(self.misses))?;
        }
        write_kinds(f, "failed", self.failed, &self.errors)?;
        let lost = self.connections_lost.values().sum();
        write_kinds(f, "connections lost", lost, &self.connections_lost)?;
        if let Some(rate) = self.plan.rate {
            let not_sent = grouped(self.not_sent);
            writeln!(f, "  {not_sent} not sent, though due at {}/s", grouped(rate))?;
        }
        f.write_str("\n")?;
        f.write_str(&latency_table(&self.latencies))
    }
}

fn write_kinds(f: &mut fmt::Formatter<'_>, what: &str, total: u64, kinds: &Kinds) -> fmt::Result {
    writeln!(f, "  {} {what}", grouped(total))?;
    for (kind, times) in kinds {
        writeln!(f, "    {:>11}  {}", grouped(*times), printable(kind))?;
    }
    Ok(())
}

/// Narrow enough for a terminal of 80 columns.
fn latency_table(latencies: &[Latency]) -> String {
    let mut text = format!("  {:<7}{:>7}{:>7}", "ms", "min", "mean");
    for percent in PERCENTILES {
        _ = write!(text, "{:>7}", format!("p{percent}"));
    }
    _ = writeln!(text, "{:>7}", "max");
    for latency in latencies {
        _ = write!(text, "  {:<7}", latency.of);
        let percentiles = latency.percentiles_ms.iter().map(|(_, ms)| *ms);
        let ends = [latency.min_ms, latency.mean_ms];
        for ms in ends.into_iter().chain(percentiles).chain([latency.max_ms]) {
            _ = write!(text, "{:>7}", short_ms(ms));
        }
        text.push('\n');
    }
    text
}

/// Milliseconds in six characters, if they are less than a quarter of an hour.
fn short_ms(ms: f64) -> String {
    let digits = match ms {
        ..99.9995 => 3,
        ..999.995 => 2,
        ..9999.95 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

impl fmt::Display for Moment {
    /// One line, short enough for most terminals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_seconds, answered_per_second, failed, p50_ms, p99_ms, max_ms } = self;
        let (p50, p99, max) = (short_ms(*p50_ms), short_ms(*p99_ms), short_ms(*max_ms));
        write!(f, "{at_seconds:6.1} s {answered_per_second:9.0}/s")?;
        write!(f, "  p50 {p50}  p99 {p99}  max {max} ms  {failed} failed")
    }
}

impl Report {
    /// The part of a run that is done, between 0 and 1.
    pub(crate) fn done(plan: &Plan, at_seconds: f64, sent: u64) -> f64 {
        let done = match plan.end {
            End::After(time) => at_seconds / (plan.warm_up + time).as_secs_f64(),
            End::Count(count) => sent as f64 / count as f64,
        };
        done.min(1.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::tally::histogram;

    pub(crate) fn report() -> Report {
        let mut histogram = histogram();
        for us in 1..=100_000 {
            histogram.record(us * 1_000).unwrap();
        }
        Report {
            plan: plan(),
            measured_seconds: 2.0,
            answered_per_second: 50_000.0,
            sent: 100_007,
            answered: 100_000,
            answered_in_warm_up: 0,
            failed: 7,
            not_sent: 3,
            misses: 0,
            errors: [("UNKNOWN".to_owned(), 7)].into(),
            connections_lost: Kinds::new(),
            interrupted: false,
            latencies: vec![Latency::new("all", &histogram)],
            moments: (1..=20)
                .map(|at| Moment::new(f64::from(at) / 10.0, 0.1, &histogram, u64::from(at == 7)))
                .collect(),
        }
    }

    #[test]
    fn percentiles_are_those_of_the_distribution() {
        let report = report();
        let all = &report.latencies[0];
        let near = |ms: f64, want: f64| (ms - want).abs() <= want * 0.001 + 0.001;
        for (percent, ms) in &all.percentiles_ms {
            assert!(near(*ms, *percent), "p{percent} is {ms} ms");
        }
        assert!(near(all.mean_ms, 50.0) && near(all.max_ms, 100.0) && near(all.min_ms, 0.001));
        assert!(all.curve.windows(2).all(|pair| pair[0].1 <= pair[1].1), "ascending");
    }

    #[test]
    fn the_text_hides_no_error() {
        let text = report().to_string();
        for part in ["50,000 commands/s", "7 failed", "7  UNKNOWN", "0 connections lost", "p99.99"]
        {
            assert!(text.contains(part), "no '{part}' in {text}");
        }
        let mut open = report();
        open.plan.rate = Some(1_234);
        open.interrupted = true;
        open.answered = 0;
        let text = open.to_string();
        for part in ["3 not sent, though due at 1,234/s", "INTERRUPTED", "NOTHING MEASURED"] {
            assert!(text.contains(part), "no '{part}' in {text}");
        }
    }

    #[test]
    fn what_servers_say_is_printed_without_control_characters() {
        assert_eq!(printable("\x1b[2J \r\n\u{9b}m"), r"\u{1b}[2J \r\n\u{9b}m");
        assert_eq!(printable(r#"ERR "é" 'x' \n"#), r#"ERR "é" 'x' \n"#);
    }

    #[test]
    fn latencies_fit_80_columns_however_long_they_are() {
        for (ms, short) in [
            (0.0, "0.000"),
            (0.001, "0.001"),
            (99.999, "99.999"),
            (99.9996, "100.00"),
            (999.996, "1000.0"),
            (9_999.96, "10000"),
            (900_000.0, "900000"),
        ] {
            assert_eq!(short_ms(ms), short);
        }
        let mut report = report();
        report.latencies[0].of = "exists".to_owned();
        for (_, ms) in &mut report.latencies[0].percentiles_ms {
            *ms = 899_999.4;
        }
        for line in report.to_string().lines().skip(1) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_run_is_clean_only_if_nothing_is_missing() {
        let mut clean = report();
        (clean.failed, clean.not_sent) = (0, 0);
        assert!(clean.is_clean());
        assert!(!Report { answered: 0, ..clean.clone() }.is_clean());
        assert!(!Report { failed: 1, ..clean.clone() }.is_clean());
        assert!(!Report { not_sent: 1, ..clean.clone() }.is_clean());
        assert!(!Report { interrupted: true, ..clean }.is_clean());
    }

    #[test]
    fn json_has_the_plan_and_the_numbers() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["plan"]["mix"], "set");
        assert_eq!(json["plan"]["end"]["seconds"], 1.0);
        assert_eq!(json["errors"]["UNKNOWN"], 7);
        assert_eq!(json["latencies"][0]["percentiles_ms"][6][0], 99.99);
        assert_eq!(json["moments"].as_array().unwrap().len(), 20);
    }
}
