//! A report as a picture: throughput over time, latencies over time, and the distribution of the
//! latencies with its tail stretched out. SVG is text, and three line charts are little of it.

use std::fmt::Write as _;

use crate::report::{Latency, Report, grouped};

const WIDTH: f64 = 900.0;
const PANEL_HEIGHT: f64 = 230.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 64.0;
/// Between panels: the labels of one axis and the title of the next panel.
const GAP: f64 = 70.0;

const BLUE: &str = "#1f5fa8";
const ORANGE: &str = "#c8641e";
const GREY: &str = "#8a8a8a";
const COLOURS: [&str; 6] = [BLUE, ORANGE, "#3b8f46", "#8c4fa8", "#a8323e", GREY];

/// An axis: values to places between 0 and 1, and the values to name.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to a round number above the largest value.
    fn linear(max: f64, label: impl Fn(f64) -> String) -> Self {
        let step = round_step(max.max(1e-9) / 5.0);
        let count = (max / step).ceil().max(1.0) as u32;
        let ticks = (0..=count).map(|tick| f64::from(tick) * step);
        let ticks = ticks.map(|value| (value, label(value))).collect();
        Self { low: 0.0, high: f64::from(count) * step, logarithmic: false, ticks }
    }

    /// Powers of ten around values in milliseconds.
    fn of_ms(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::MAX, 1e-3_f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        let first = low.min(high).log10().floor() as i32;
        let last = (high.log10().ceil() as i32).max(first + 1);
        let ticks = (first..=last).map(|power| (10_f64.powi(power), ms_label(power))).collect();
        Self { low: 10_f64.powi(first), high: 10_f64.powi(last), logarithmic: true, ticks }
    }

    fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

fn ms_label(power: i32) -> String {
    match power {
        ..-3 => format!("{} ns", 10_u64.pow((power + 6).max(0) as u32)),
        -3..0 => format!("{} µs", 10_u64.pow((power + 3) as u32)),
        0..3 => format!("{} ms", 10_u64.pow(power as u32)),
        _ => format!("{} s", 10_u64.pow((power - 3) as u32)),
    }
}

/// One chart, and where it stands.
struct Panel<'a> {
    out: &'a mut String,
    top: f64,
    x: Axis,
    y: Axis,
    legends: usize,
}

impl Panel<'_> {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let width = WIDTH - LEFT - RIGHT;
        (LEFT + self.x.place(x) * width, self.top + (1.0 - self.y.place(y)) * PANEL_HEIGHT)
    }

    fn frame(&mut self, title: &str) {
        let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, self.top, self.top + PANEL_HEIGHT);
        text(self.out, left, top - 12.0, "start", 14, title);
        for (value, label) in &self.y.ticks {
            let y = top + (1.0 - self.y.place(*value)) * PANEL_HEIGHT;
            line(self.out, (left, y), (right, y), "#dddddd");
            text(self.out, left - 8.0, y + 4.0, "end", 11, label);
        }
        for (value, label) in &self.x.ticks {
            let x = left + self.x.place(*value) * (right - left);
            line(self.out, (x, bottom), (x, bottom + 5.0), GREY);
            text(self.out, x, bottom + 18.0, "middle", 11, label);
        }
        line(self.out, (left, bottom), (right, bottom), GREY);
    }

    fn curve(&mut self, name: &str, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = self.at(x, y);
            _ = write!(path, "{x:.1},{y:.1} ");
        }
        _ = writeln!(
            self.out,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{}"/>"#,
            path.trim_end()
        );
        let y = self.top + 12.0 + 18.0 * self.legends as f64;
        let x = WIDTH - RIGHT + 10.0;
        line(self.out, (x, y - 4.0), (x + 16.0, y - 4.0), colour);
        text(self.out, x + 22.0, y, "start", 11, name);
        self.legends += 1;
    }

    /// A vertical line with a name, from the bottom to the top.
    fn mark(&mut self, x: f64, name: &str) {
        let (x, _) = self.at(x, 0.0);
        line(self.out, (x, self.top), (x, self.top + PANEL_HEIGHT), GREY);
        text(self.out, x + 4.0, self.top + 12.0, "start", 11, name);
    }
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    _ = writeln!(
        out,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
    );
}

/// Draws a report as SVG.
pub fn plot(report: &Report) -> String {
    let height = TOP + 3.0 * (PANEL_HEIGHT + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" fill=\"#222222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(&mut out, 16.0, 24.0, "start", 15, &report.plan.title());
    throughput(&mut out, report, TOP);
    latency_over_time(&mut out, report, TOP + PANEL_HEIGHT + GAP);
    distribution(&mut out, report, TOP + 2.0 * (PANEL_HEIGHT + GAP));
    out.push_str("</svg>\n");
    out
}

fn time_axis(report: &Report) -> Axis {
    let last = report.moments.last().map_or(1.0, |moment| moment.at_seconds);
    let mut axis = Axis::linear(last, |seconds| format!("{} s", (seconds * 1e3).round() / 1e3));
    axis.high = last.max(1e-3);
    axis.ticks.retain(|(seconds, _)| *seconds <= axis.high);
    axis
}

fn throughput(out: &mut String, report: &Report, top: f64) {
    let rates = || report.moments.iter().map(|moment| moment.answered_per_second);
    let y = Axis::linear(rates().fold(1.0, f64::max), |rate| grouped(rate.round() as u64));
    let mut panel = Panel { out, top, x: time_axis(report), y, legends: 0 };
    let total = grouped(report.answered_per_second.round() as u64);
    let failed = grouped(report.failed);
    panel.frame(&format!("commands per second: {total} measured, {failed} failed"));
    let points =
        report.moments.iter().map(|moment| (moment.at_seconds, moment.answered_per_second));
    panel.curve("answered", BLUE, points);
    for moment in report.moments.iter().filter(|moment| moment.failed > 0) {
        let (x, y) = panel.at(moment.at_seconds, 0.0);
        let failed = moment.failed;
        _ = writeln!(
            panel.out,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="#a8323e"><title>{failed} failed</title></circle>"##
        );
    }
    if !report.plan.warm_up.is_zero() {
        panel.mark(report.plan.warm_up.as_secs_f64(), "measured from here");
    }
}

fn latency_over_time(out: &mut String, report: &Report, top: f64) {
    let moments = || report.moments.iter().filter(|moment| moment.max_ms > 0.0);
    let y = Axis::of_ms(moments().flat_map(|moment| [moment.p50_ms, moment.max_ms]));
    let mut panel = Panel { out, top, x: time_axis(report), y, legends: 0 };
    panel.frame("latency over time");
    panel.curve("longest", GREY, moments().map(|moment| (moment.at_seconds, moment.max_ms)));
    panel.curve("p99", ORANGE, moments().map(|moment| (moment.at_seconds, moment.p99_ms)));
    panel.curve("p50", BLUE, moments().map(|moment| (moment.at_seconds, moment.p50_ms)));
}

fn distribution(out: &mut String, report: &Report, top: f64) {
    let curves = || report.latencies.iter().flat_map(|latency| &latency.curve);
    let y = Axis::of_ms(curves().map(|(_, ms)| *ms));
    // Each nine of a percentile takes the same room.
    let labels = ["p0", "p90", "p99", "p99.9", "p99.99", "p99.999"];
    let ticks = labels.iter().enumerate();
    let ticks = ticks.map(|(nines, label)| (10_f64.powi(nines as i32), (*label).to_owned()));
    let x = Axis { low: 1.0, high: 1e5, logarithmic: true, ticks: ticks.collect() };
    let mut panel = Panel { out, top, x, y, legends: 0 };
    panel.frame("latency by percentile");
    let several: &[Latency] = &report.latencies;
    for (latency, colour) in several.iter().zip(COLOURS) {
        let points = latency.curve.iter().map(|(above, ms)| (1.0 / above, *ms));
        panel.curve(&latency.of, colour, points);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_plot_is_well_formed_and_has_its_three_panels() {
        let mut report = report();
        report.plan.servers = vec!["<&>".to_owned()];
        let svg = plot(&report);
        for part in ["commands per second", "latency over time", "latency by percentile", "p99.99"]
        {
            assert!(svg.contains(part), "no '{part}'");
        }
        assert_eq!(svg.matches("<polyline").count(), 5);
        assert_eq!(svg.matches("1 failed</title>").count(), 1);
        let opened = svg.matches('<').count() - svg.matches("</").count();
        let closed = svg.matches("</").count() + svg.matches("/>").count();
        assert_eq!(opened, closed, "every element ends");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_run_without_an_answer_can_be_plotted() {
        let mut report = report();
        report.moments.clear();
        report.latencies = vec![Latency::new("all", &crate::tally::histogram())];
        let svg = plot(&report);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let axis = Axis::linear(43_210.0, |value| format!("{value}"));
        assert!((axis.high - 50_000.0).abs() < 1e-6);
        assert!((axis.place(25_000.0) - 0.5).abs() < 1e-9);
        let axis = Axis::of_ms([0.3, 42.0].into_iter());
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| &**label).collect();
        assert_eq!(labels, ["100 µs", "1 ms", "10 ms", "100 ms"]);
    }
}
