//! The fast path for a key whose writes are all different: O(n log n), and no search.
//!
//! It takes keys with `get`, `put` and `append` alone, where no two writes have the same value and,
//! if there are appends, no value begins with another. Then what a read saw tells its history since
//! the last put: "put b, append c, append d" is the only way to read "bcd". Everything that belongs
//! to one put (the put, the appends that reads show after it, those reads) must stand together in
//! every order, in the order that the values dictate: a *cluster*. An append that no read shows can
//! only stand behind the last read of a cluster: it is a cluster of its own. Open writes that no
//! read shows can be left out.
//!
//! What is left is to order clusters. With `f` the first return and `s` the last call in a cluster,
//! A must come before B if and only if `f(A) < s(B)`. This relation has a cycle only if it has one
//! of length two: in a shortest cycle of three or more, `f(A) < s(B) <= f(C) < ...` runs around it
//! to `f(A) < f(A)`. These are the zones of Gibbons and Korach (*Testing shared memories*, 1997,
//! section 4). So an order by `min(f, s)`, at ties first those with `s <= f`, respects the relation
//! if any order does. It is then replayed like every other; that is the whole decision.

use crate::history::{NEVER_NS, ValueId};
use crate::model::Action;
use crate::part::{Part, Start};
use crate::wgl::Found;
use crate::witness::replay;

/// An order of the part, or nothing if there is none; `None`: the part is not of this kind.
pub(crate) fn order(part: &Part<'_>) -> Option<Found> {
    let [_] = *part.keys else { return None };
    if part.start != Start::Missing {
        return None;
    }
    let mut writes = Writes::new(part)?;
    if !writes.are_unique(part) {
        return None;
    }
    let mut epochs = Epochs::new(&writes);
    for (at, seen) in std::mem::take(&mut writes.reads) {
        if epochs.place_read(&mut writes, at, seen, part).is_none() {
            return Some(Found::Nothing);
        }
    }
    let order = epochs.in_order(&writes, part);
    match replay(part, &order) {
        Ok(()) => Some(Found::Order(order)),
        // An append that no read shows could have told its length at another place only.
        Err(_) if writes.hidden_append_told_length() => None,
        Err(_) => Some(Found::Nothing),
    }
}

/// A put or an append.
#[derive(Debug, Clone, Copy)]
struct Write<'h> {
    text: &'h str,
    value: ValueId,
    /// Position among the entries.
    at: u32,
    is_put: bool,
    /// Its answer told the length of the result.
    told_length: bool,
    /// Some read shows it (an append), or some read is of its epoch (a put).
    shown: bool,
}

/// All writes of the key; by text if there are appends, else by value.
struct Writes<'h> {
    all: Vec<Write<'h>>,
    has_appends: bool,
    /// Position and value of each read, to be placed.
    reads: Vec<(u32, Option<ValueId>)>,
}

impl<'h> Writes<'h> {
    fn new(part: &Part<'h>) -> Option<Self> {
        let mut writes = Self { all: Vec::new(), has_appends: false, reads: Vec::new() };
        for (at, entry) in part.entries.iter().enumerate() {
            let at = at as u32;
            let mut steps = part.steps(entry);
            let (Some(step), None) = (steps.next(), steps.next()) else { return None };
            let (value, is_put, told_length) = match step.action {
                Action::Get { out: Some(seen) } => {
                    writes.reads.push((at, seen));
                    continue;
                }
                Action::Put { value } => (value, true, false),
                Action::Append { value, out } => (value, false, out.is_some()),
                Action::Get { out: None }
                | Action::Incr { .. }
                | Action::Del { .. }
                | Action::Cas { .. } => return None,
            };
            writes.has_appends |= !is_put;
            let text = part.history.value_text(value);
            writes.all.push(Write { text, value, at, is_put, told_length, shown: false });
        }
        if writes.has_appends {
            writes.all.sort_unstable_by_key(|write| (write.text, write.at));
        } else {
            writes.all.sort_unstable_by_key(|write| (write.value, write.at));
        }
        Some(writes)
    }

    /// Whether what a read saw tells which writes made it.
    fn are_unique(&self, part: &Part<'_>) -> bool {
        let empty_is_ambiguous = self.has_appends || !part.history.tells_missing();
        let differ = |pair: &[Write<'_>]| {
            if self.has_appends {
                !pair[1].text.starts_with(pair[0].text)
            } else {
                pair[0].value != pair[1].value
            }
        };
        self.all.windows(2).all(differ)
            && !(empty_is_ambiguous && self.all.iter().any(|write| write.text.is_empty()))
    }

    /// The write of exactly this value, where there are no appends.
    fn of_value(&self, value: ValueId) -> Option<usize> {
        self.all.binary_search_by_key(&value, |write| write.value).ok()
    }

    /// The one write whose text `text` begins with.
    fn at_head_of(&self, text: &str) -> Option<usize> {
        let after = self.all.partition_point(|write| write.text <= text);
        after.checked_sub(1).filter(|&at| text.starts_with(self.all[at].text))
    }

    fn hidden_append_told_length(&self) -> bool {
        self.all.iter().any(|write| write.told_length && !write.shown)
    }
}

/// What one put began, or the missing key that all begins with.
#[derive(Debug, Clone)]
struct Epoch<'h> {
    put: Option<u32>,
    /// The appends that reads show, in their order.
    appends: Vec<u32>,
    /// The length in bytes after each, the first with none.
    lengths: Vec<usize>,
    /// The longest value that a read saw.
    longest: &'h str,
    /// (appends seen, position) of each read.
    reads: Vec<(u32, u32)>,
}

/// The first is that of the missing key; write `i`, if it is a put, began epoch `i + 1`.
struct Epochs<'h>(Vec<Epoch<'h>>);

impl<'h> Epochs<'h> {
    fn new(writes: &Writes<'h>) -> Self {
        let epoch = |put: Option<u32>, text: &'h str| Epoch {
            put,
            appends: Vec::new(),
            lengths: vec![text.len()],
            longest: text,
            reads: Vec::new(),
        };
        let begun = writes.all.iter().map(|write| {
            if write.is_put { epoch(Some(write.at), write.text) } else { epoch(None, "") }
        });
        Self(std::iter::once(epoch(None, "")).chain(begun).collect())
    }

    /// Puts a read where its value says it belongs. None: no order of the writes gives that value,
    /// or none gives both it and the values of the reads before.
    fn place_read(
        &mut self,
        writes: &mut Writes<'h>,
        at: u32,
        seen: Option<ValueId>,
        part: &Part<'h>,
    ) -> Option<()> {
        let text = seen.map_or("", |value| part.history.value_text(value));
        let missing = match seen {
            None => true,
            Some(_) => text.is_empty() && !part.history.tells_missing(),
        };
        let epoch = if missing {
            0
        } else if writes.has_appends {
            let write = writes.at_head_of(text)?;
            if writes.all[write].is_put { write + 1 } else { 0 }
        } else {
            writes.of_value(seen?)? + 1
        };
        let epoch = &mut self.0[epoch];
        if text.len() > epoch.longest.len() {
            epoch.extend(writes, text)?;
        } else if !epoch.longest.starts_with(text) {
            return None;
        }
        let level = epoch.lengths.binary_search(&text.len()).ok()?;
        epoch.reads.push((level as u32, at));
        Some(())
    }

    /// All clusters one after the other.
    fn in_order(self, writes: &Writes<'_>, part: &Part<'_>) -> Vec<u32> {
        let mut epochs = self.0.into_iter();
        let first = epochs.next().map(Epoch::into_cluster).unwrap_or_default();
        let of_puts = epochs.map(Epoch::into_cluster);
        let hidden = writes.all.iter().filter(|write| !write.is_put && !write.shown);
        let clusters = of_puts.chain(hidden.map(|write| vec![write.at])).filter(|cluster| {
            // Neither the place of an append, nor an open write that no read shows.
            let is_shown = |at: u32| !part.entries[at as usize].is_open();
            cluster.len() > 1 || cluster.first().is_some_and(|&at| is_shown(at))
        });
        let mut clusters: Vec<_> = clusters
            .map(|cluster| {
                let entries = cluster.iter().map(|&at| &part.entries[at as usize]);
                let first_return =
                    entries.clone().map(|entry| entry.return_ns).min().unwrap_or(NEVER_NS);
                let last_call = entries.map(|entry| entry.call_ns).max().unwrap_or(0);
                (first_return.min(last_call), first_return < last_call, cluster)
            })
            .collect();
        clusters.sort_unstable();
        let rest = clusters.into_iter().flat_map(|(_, _, cluster)| cluster);
        first.into_iter().chain(rest).collect()
    }
}

impl<'h> Epoch<'h> {
    /// Reads the appends that `text` shows beyond the longest value so far.
    fn extend(&mut self, writes: &mut Writes<'h>, text: &'h str) -> Option<()> {
        let mut rest = text.strip_prefix(self.longest)?;
        while !rest.is_empty() {
            let at = writes.at_head_of(rest)?;
            let write = &mut writes.all[at];
            if write.is_put {
                return None;
            }
            write.shown = true;
            rest = &rest[write.text.len()..];
            self.appends.push(write.at);
            self.lengths.push(text.len() - rest.len());
        }
        self.longest = text;
        Some(())
    }

    /// The put, the reads that saw no append, the first append, the reads that saw it, ...
    fn into_cluster(mut self) -> Vec<u32> {
        self.reads.sort_unstable();
        let mut cluster: Vec<u32> = self.put.into_iter().collect();
        let mut reads = self.reads.into_iter().peekable();
        for level in 0..=self.appends.len() {
            if level > 0 {
                cluster.push(self.appends[level - 1]);
            }
            while let Some((_, at)) = reads.next_if(|&(seen, _)| seen as usize == level) {
                cluster.push(at);
            }
        }
        cluster
    }
}
