//! The picture: one HTML file that needs nothing else.
//!
//! Lanes of clients, operations as bars from call to return (those of unknown outcome to the right
//! edge), the longest legal prefix with its linearization points, the first operation that fits
//! nowhere, the smallest failing part, faults as bands, leaders as a lane. The time axis is even in
//! events, not in nanoseconds: a microsecond in which everything happens is as wide as a second in
//! which nothing does. Of a long history only the neighbourhood of the failure is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::check::{Options, key_names, parts};
use crate::decide::decide;
use crate::history::{History, OperationId};
use crate::part::{Entry, Part};
use crate::report::{Counterexample, Report, Verdict, listed};
use crate::wgl::Found;

/// How many operations are drawn at most, besides the smallest failing part.
const DRAWN_MAX: usize = 400;
/// Of these, how many may lie after the failure.
const DRAWN_AFTER_MAX: usize = 40;
/// The space that an event gets: more where there are few.
const EVENT_PX: std::ops::RangeInclusive<f64> = 30.0..=90.0;
const WIDTH_PX: f64 = 12_000.0;
const ROW_PX: usize = 28;
const MARK_PX: usize = 24;
const AXIS_PX: usize = 20;
const TICK_PX: f64 = 120.0;

/// Draws a history and what was found about it.
pub fn render(history: &History, report: &Report) -> String {
    let view = View::new(history, report);
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n",
    );
    let verdict = report.verdict.to_string();
    push(
        &mut page,
        format_args!(
            "<title>{verdict}</title>\n<style>\n{}</style></head>\n<body>\n",
            include_str!("html.css")
        ),
    );
    head(&mut page, history, report, &verdict);
    if let Verdict::NotLinearizable(counterexample) = &report.verdict {
        explanation(&mut page, history, counterexample);
    }
    view.draw(&mut page);
    view.orders(&mut page);
    page.push_str("</body></html>\n");
    page
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes any text");
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            char => escaped.push(char),
        }
    }
    escaped
}

fn head(page: &mut String, history: &History, report: &Report, verdict: &str) {
    let class = match report.verdict {
        Verdict::Linearizable => "",
        Verdict::NotLinearizable(_) => "bad",
        Verdict::Undecided => "unsure",
    };
    push(page, format_args!("<h1>History <span class=\"verdict {class}\">{verdict}</span></h1>\n"));
    let counts = report.counts;
    push(
        page,
        format_args!(
            "<p class=\"soft\">{} operations ({} ok, {} unknown, {} failed) of {} clients on {} keys; {} parts checked, {} not linearizable, {} undecided</p>\n",
            counts.operations,
            counts.ok,
            counts.unknown,
            counts.failed,
            counts.clients,
            counts.keys,
            counts.parts,
            report.failing_parts,
            report.undecided_parts.len(),
        ),
    );
    for note in &history.notes {
        push(page, format_args!("<p><code>{}</code></p>\n", escaped(note)));
    }
    for claim in report.false_claims.iter().take(DRAWN_AFTER_MAX) {
        let keys = escaped(&listed(&claim.keys));
        let why = escaped(&claim.line);
        push(page, format_args!("<p>False log indices on <code>{keys}</code>: {why}</p>\n"));
    }
}

fn explanation(page: &mut String, history: &History, counterexample: &Counterexample) {
    let first = escaped(&history.describe(counterexample.first_illegal));
    push(
        page,
        format_args!(
            "<h2>The first operation that fits nowhere</h2>\n<p><code>{first}</code> · <a href=\"#first\">show it</a></p>\n<p>Until it returned, {} operations had an order; with its answer there is none.</p>\n",
            counterexample.legal_prefix.len()
        ),
    );
    let start = if counterexample.from_any_state { ", whatever the keys held before" } else { "" };
    let found = if counterexample.is_minimal { "" } else { " found" };
    push(
        page,
        format_args!(
            "<h2>The smallest failing part{found}</h2>\n<p>No order of these alone explains what they saw{start}:</p>\n<ul>\n"
        ),
    );
    for (needed, line) in counterexample.smallest.iter().zip(&counterexample.lines).take(DRAWN_MAX)
    {
        let class = if needed.id == counterexample.first_illegal { " class=\"first\"" } else { "" };
        let open =
            if needed.open { " <span class=\"soft\">(or later, or never)</span>" } else { "" };
        push(page, format_args!("<li{class}>{}{open}</li>\n", escaped(line)));
    }
    page.push_str("</ul>\n");
}

/// What is drawn: some entries of some parts, and where each part's order places them.
struct View<'h> {
    history: &'h History,
    bars: Vec<Bar>,
    /// For each part drawn, its order with the time at which each takes effect.
    orders: Vec<Vec<(OperationId, u64)>>,
    axis: Axis,
}

/// One operation.
struct Bar {
    entry: Entry,
    class: &'static str,
}

impl<'h> View<'h> {
    fn new(history: &'h History, report: &Report) -> Self {
        let parts = parts(history);
        let (bars, orders) = match &report.verdict {
            Verdict::NotLinearizable(counterexample) => {
                let failing = parts.iter().find(|part| key_names(part) == counterexample.keys);
                failing.map_or((Vec::new(), Vec::new()), |part| failure(part, counterexample))
            }
            Verdict::Undecided => {
                let undecided = report.undecided_parts.first();
                let part = undecided
                    .and_then(|found| parts.iter().find(|part| key_names(part) == found.keys));
                let entries = part.map_or(&[] as &[Entry], |part| &part.entries);
                let drawn = entries.iter().take(DRAWN_MAX);
                (drawn.map(|&entry| Bar { entry, class: "out" }).collect(), Vec::new())
            }
            Verdict::Linearizable => success(&parts),
        };
        let axis = Axis::new(&bars);
        Self { history, bars, orders, axis }
    }

    fn draw(&self, page: &mut String) {
        let whole = self.bars.len() == self.history.len();
        let extent = if whole { "all" } else { "a part" };
        push(
            page,
            format_args!(
                "<h2>What happened</h2>\n<p class=\"soft\">{} operations, {extent} of the history; the axis is even in events; hover for details</p>\n",
                self.bars.len()
            ),
        );
        legend(page);
        let lanes = Lanes::new(self);
        page.push_str("<div class=\"frame\"><div class=\"names\">");
        for (name, height) in &lanes.names {
            push(
                page,
                format_args!(
                    "<div style=\"height:{height}px;line-height:{height}px\">{name}</div>"
                ),
            );
        }
        push(
            page,
            format_args!(
                "</div><div class=\"scroll\"><div class=\"chart\" style=\"width:{:.0}px;height:{}px\">\n",
                self.axis.width(),
                lanes.height
            ),
        );
        let mut top = 0;
        for (_, height) in &lanes.names {
            push(
                page,
                format_args!(
                    "<div class=\"lane\" style=\"top:{top}px;height:{height}px\"></div>\n"
                ),
            );
            top += height;
        }
        self.ticks(page);
        self.marks(page);
        for bar in &self.bars {
            self.bar(page, bar, lanes.tops[&bar.entry.id]);
        }
        self.points(page, &lanes);
        page.push_str("</div></div></div>\n");
    }

    fn ticks(&self, page: &mut String) {
        let mut last_px = f64::NEG_INFINITY;
        for &time_ns in &self.axis.times_ns {
            let px = self.axis.px(time_ns);
            if px - last_px >= TICK_PX {
                last_px = px;
                let seconds = time_ns as f64 / 1e9;
                push(
                    page,
                    format_args!(
                        "<div class=\"tick\" style=\"left:{px:.1}px\">{seconds:.6} s</div>\n"
                    ),
                );
            }
        }
    }

    /// Faults as bands over all lanes, named in a lane of their own; leaders in another.
    fn marks(&self, page: &mut String) {
        let mut mark = |row: usize, from_ns: u64, to_ns: Option<u64>, class: &str, text: &str| {
            let Some((left, width)) = self.axis.span(from_ns, to_ns) else { return };
            let text = escaped(text);
            let top = AXIS_PX + row * MARK_PX + 3;
            if class == "fault" {
                push(
                    page,
                    format_args!(
                        "<div class=\"band\" style=\"left:{left:.1}px;width:{width:.1}px\"></div>\n"
                    ),
                );
            }
            push(
                page,
                format_args!(
                    "<div class=\"mark {class}\" style=\"left:{left:.1}px;width:{width:.1}px;top:{top}px\" title=\"{text} [{from_ns}..{}]\"><span>{text}</span></div>\n",
                    until(to_ns)
                ),
            );
        };
        let (rows, row) = self.fault_rows();
        for (fault, row) in self.history.faults.iter().zip(rows) {
            let text = format!("{} {}", fault.kind, fault.what);
            mark(row, fault.from_ns, fault.to_ns, "fault", text.trim_end());
        }
        for leadership in &self.history.leaderships {
            let term = leadership.term.map_or(String::new(), |term| format!(", term {term}"));
            let text = format!("n{}{term}", leadership.node);
            mark(row, leadership.from_ns, leadership.to_ns, "lead", &text);
        }
    }

    /// The row of each fault, and how many rows there are.
    fn fault_rows(&self) -> (Vec<usize>, usize) {
        let faults = self.history.faults.iter();
        stacked(faults.map(|fault| (fault.from_ns, fault.to_ns.unwrap_or(u64::MAX))))
    }

    fn bar(&self, page: &mut String, bar: &Bar, top: usize) {
        let Bar { entry, class } = bar;
        let left = self.axis.px(entry.call_ns);
        let (right, open) = if entry.is_open() {
            (self.axis.width(), " open")
        } else {
            (self.axis.px(entry.return_ns), "")
        };
        let width = (right - left).max(6.0);
        let anchor = if *class == "bad" { " id=\"first\"" } else { "" };
        let text = escaped(&self.history.describe_steps(entry.id));
        let title = escaped(&self.history.describe(entry.id));
        push(
            page,
            format_args!(
                "<div{anchor} class=\"op {class}{open}\" style=\"left:{left:.1}px;width:{width:.1}px;top:{top}px\" title=\"#{} {title}\"><span>{text}</span></div>\n",
                entry.id.0
            ),
        );
    }

    /// The linearization points, joined in their order.
    fn points(&self, page: &mut String, lanes: &Lanes) {
        push(
            page,
            format_args!(
                "<svg width=\"{:.0}\" height=\"{}\" style=\"left:0;top:0\">\n",
                self.axis.width(),
                lanes.height
            ),
        );
        let returns: BTreeMap<OperationId, u64> =
            self.bars.iter().map(|bar| (bar.entry.id, bar.entry.return_ns)).collect();
        for order in &self.orders {
            let mut path = String::new();
            let mut circles = String::new();
            for at_once in order.chunk_by(|a, b| a.1 == b.1) {
                for (place, (id, time_ns)) in at_once.iter().enumerate() {
                    let (Some(top), Some(return_ns)) = (lanes.tops.get(id), returns.get(id)) else {
                        continue;
                    };
                    let share = (place + 1) as f64 / (at_once.len() + 1) as f64;
                    let px = self.axis.px(*time_ns) + self.axis.event_px * share;
                    let px = if *return_ns > *time_ns { px } else { self.axis.px(*time_ns) + 2.0 };
                    let y = top + ROW_PX - 8;
                    let step = if path.is_empty() { 'M' } else { 'L' };
                    push(&mut path, format_args!("{step}{px:.1} {y}"));
                    push(&mut circles, format_args!("<circle cx=\"{px:.1}\" cy=\"{y}\" r=\"3\"/>"));
                }
            }
            push(page, format_args!("<path d=\"{path}\"/>{circles}\n"));
        }
        page.push_str("</svg>\n");
    }

    fn orders(&self, page: &mut String) {
        for order in &self.orders {
            let first = order.len().saturating_sub(DRAWN_MAX);
            push(
                page,
                format_args!(
                    "<details><summary>An order of {} operations</summary><ol start=\"{}\">\n",
                    order.len(),
                    first + 1
                ),
            );
            for (id, _) in &order[first..] {
                push(page, format_args!("<li>{}</li>\n", escaped(&self.history.describe(*id))));
            }
            page.push_str("</ol></details>\n");
        }
    }
}

fn until(to_ns: Option<u64>) -> String {
    to_ns.map_or("…".to_owned(), |to_ns| to_ns.to_string())
}

fn legend(page: &mut String) {
    let items = [
        ("ok", "has its place in a legal order (dot: where)"),
        ("bad", "fits nowhere"),
        ("need", "the rest of the smallest failing part"),
        ("out", "has no place: outcome unknown, seen by nobody"),
        ("later", "after the failure"),
        ("open out", "dashed: never answered, open to the right"),
        ("mark fault", "fault"),
    ];
    page.push_str("<div class=\"legend\">");
    for (class, text) in items {
        push(page, format_args!("<span><i class=\"{class}\"></i>{text}</span>"));
    }
    page.push_str("</div>\n");
}

type Drawn = (Vec<Bar>, Vec<Vec<(OperationId, u64)>>);

/// The neighbourhood of a failure.
fn failure(part: &Part<'_>, counterexample: &Counterexample) -> Drawn {
    let first_illegal = counterexample.first_illegal;
    let end_ns = part.history.operation(first_illegal).return_ns.unwrap_or(u64::MAX);
    let needed: BTreeSet<OperationId> =
        counterexample.smallest.iter().map(|needed| needed.id).collect();
    let placed: BTreeSet<OperationId> = counterexample.legal_prefix.iter().copied().collect();
    let before = part.entries.partition_point(|entry| entry.call_ns <= end_ns);
    let from = before.saturating_sub(DRAWN_MAX - DRAWN_AFTER_MAX);
    let to = part.entries.len().min(before + DRAWN_AFTER_MAX);
    let near = part.entries.iter().enumerate().filter(|(at, entry)| {
        (from..to).contains(at) || needed.contains(&entry.id) || entry.id == first_illegal
    });
    let bars = near.map(|(_, &entry)| {
        let class = if entry.id == first_illegal {
            "bad"
        } else if needed.contains(&entry.id) {
            "need"
        } else if placed.contains(&entry.id) {
            "ok"
        } else if entry.is_open() {
            "out"
        } else {
            "later"
        };
        Bar { entry, class }
    });
    (bars.collect(), vec![points(part, counterexample.legal_prefix.iter().copied())])
}

/// The first parts of a linearizable history, as many as can be drawn.
fn success(parts: &[Part<'_>]) -> Drawn {
    let (mut bars, mut orders) = (Vec::new(), Vec::new());
    for part in parts {
        let left = DRAWN_MAX - bars.len();
        if left == 0 || !bars.is_empty() && left < part.entries.len() {
            break;
        }
        let Found::Order(order) = decide(part, Options::default().steps_max).found else {
            continue;
        };
        let placed: BTreeSet<u32> = order.iter().copied().collect();
        for (at, &entry) in part.entries.iter().enumerate().take(left) {
            let class = if placed.contains(&(at as u32)) { "ok" } else { "out" };
            bars.push(Bar { entry, class });
        }
        orders.push(points(part, order.iter().map(|&at| part.entries[at as usize].id)));
    }
    (bars, orders)
}

/// The earliest time at which each operation of an order can take effect.
fn points(part: &Part<'_>, order: impl Iterator<Item = OperationId>) -> Vec<(OperationId, u64)> {
    let mut now_ns = 0;
    let mut points = Vec::new();
    for id in order {
        now_ns = now_ns.max(part.history.operation(id).call_ns);
        points.push((id, now_ns));
    }
    points
}

/// Times to pixels, even in events.
struct Axis {
    /// All times at which something is called or returns, sorted.
    times_ns: Vec<u64>,
    event_px: f64,
}

impl Axis {
    fn new(bars: &[Bar]) -> Self {
        let calls = bars.iter().map(|bar| bar.entry.call_ns);
        let returns = bars.iter().filter(|bar| !bar.entry.is_open());
        let mut times_ns: Vec<u64> = calls.chain(returns.map(|bar| bar.entry.return_ns)).collect();
        times_ns.sort_unstable();
        times_ns.dedup();
        let event_px = (WIDTH_PX / times_ns.len() as f64).clamp(*EVENT_PX.start(), *EVENT_PX.end());
        Self { times_ns, event_px }
    }

    fn width(&self) -> f64 {
        (self.times_ns.len() as f64 + 2.0) * self.event_px
    }

    /// Between two events it is even in time; outside all of them it is the edge.
    fn px(&self, time_ns: u64) -> f64 {
        let after = self.times_ns.partition_point(|&at| at <= time_ns);
        let Some(before) = after.checked_sub(1) else { return 0.0 };
        let Some(&next) = self.times_ns.get(after) else {
            let is_last = self.times_ns[before] == time_ns;
            return if is_last { (before as f64 + 1.0) * self.event_px } else { self.width() };
        };
        let previous = self.times_ns[before];
        let share = (time_ns - previous) as f64 / (next - previous) as f64;
        (before as f64 + 1.0 + share) * self.event_px
    }

    /// Left edge and width of an interval, if any of it is drawn.
    fn span(&self, from_ns: u64, to_ns: Option<u64>) -> Option<(f64, f64)> {
        let left = self.px(from_ns);
        let right = to_ns.map_or(self.width(), |to_ns| self.px(to_ns));
        (right > left).then(|| (left, (right - left).max(2.0)))
    }
}

/// The first free row for each of some intervals, and how many rows there are.
fn stacked(intervals: impl Iterator<Item = (u64, u64)>) -> (Vec<usize>, usize) {
    let mut ends_ns: Vec<u64> = Vec::new();
    let rows = intervals.map(|(from_ns, to_ns)| {
        let free = ends_ns.iter().position(|&end_ns| end_ns <= from_ns);
        let row = free.unwrap_or(ends_ns.len());
        if free.is_none() {
            ends_ns.push(0);
        }
        ends_ns[row] = to_ns;
        row
    });
    (rows.collect(), ends_ns.len())
}

/// Which rows there are, and on which each bar lies.
struct Lanes {
    /// Name and height of each lane, from the top.
    names: Vec<(String, usize)>,
    /// Top of each bar in pixels.
    tops: BTreeMap<OperationId, usize>,
    height: usize,
}

impl Lanes {
    fn new(view: &View<'_>) -> Self {
        let mut names = vec![("time".to_owned(), AXIS_PX)];
        let (_, fault_rows) = view.fault_rows();
        names.extend(
            (0..fault_rows)
                .map(|row| (if row == 0 { "faults".to_owned() } else { String::new() }, MARK_PX)),
        );
        if !view.history.leaderships.is_empty() {
            names.push(("leader".to_owned(), MARK_PX));
        }
        let mut clients: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
        for Bar { entry, .. } in &view.bars {
            clients.entry(view.history.operation(entry.id).client).or_default().push(entry);
        }
        let mut height: usize = names.iter().map(|(_, height)| height).sum();
        let mut tops = BTreeMap::new();
        for (client, mut entries) in clients {
            entries.sort_unstable();
            let (rows, count) =
                stacked(entries.iter().map(|entry| (entry.call_ns, entry.return_ns)));
            for (entry, row) in entries.into_iter().zip(rows) {
                tops.insert(entry.id, height + row * ROW_PX + 3);
            }
            names.push((format!("client {client}"), count * ROW_PX));
            height += count * ROW_PX;
        }
        Self { names, tops, height }
    }
}
