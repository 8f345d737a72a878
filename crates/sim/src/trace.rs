//! What happened, as one hash and, if wanted, as one line an event.
//!
//! Lines follow the grammar of the golden transcripts (`narrate.rs`). The hash covers what the
//! lines are made from, whether or not anybody wants lines, so it is cheap and the same in every
//! build.

use std::collections::VecDeque;
use std::io::Write;

use sampan_base::rng::mix;

use crate::queue::SimTime;

/// Where lines go.
enum Sink {
    /// Nowhere: only the hash is kept.
    None,
    /// To standard output, as they happen.
    Print,
    /// Into memory: the last so many.
    Keep(VecDeque<String>, usize),
}

/// The trace of one run.
pub struct Trace {
    hash: u64,
    events: u64,
    sink: Sink,
}

impl Trace {
    /// A trace of which only the hash is kept.
    pub fn quiet() -> Self {
        Self { hash: 0, events: 0, sink: Sink::None }
    }

    /// A trace that is printed.
    pub fn printing() -> Self {
        Self { sink: Sink::Print, ..Self::quiet() }
    }

    /// A trace whose last `lines_max` lines are kept.
    pub fn keeping(lines_max: usize) -> Self {
        Self { sink: Sink::Keep(VecDeque::new(), lines_max), ..Self::quiet() }
    }

    /// Notes an event: numbers for the hash, and how its line reads.
    pub fn event(&mut self, at: SimTime, numbers: [u64; 3], line: impl FnOnce() -> String) {
        self.events += 1;
        let [a, b, c] = numbers;
        let folded = mix(at.0 ^ a.rotate_left(40) ^ mix(b ^ c.rotate_left(32)));
        self.hash = mix(self.hash.rotate_left(5) ^ folded);
        self.line(at, line);
    }

    /// A line without a part in the hash.
    pub fn line(&mut self, at: SimTime, line: impl FnOnce() -> String) {
        match &mut self.sink {
            Sink::None => {}
            // A reader that closed the pipe is no error of the run.
            Sink::Print => drop(writeln!(std::io::stdout().lock(), "{at} {}", line())),
            Sink::Keep(lines, lines_max) => {
                if lines.len() == *lines_max {
                    lines.pop_front();
                }
                lines.push_back(format!("{at} {}", line()));
            }
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines kept.
    pub fn into_lines(self) -> Vec<String> {
        match self.sink {
            Sink::Keep(lines, _) => lines.into(),
            Sink::None | Sink::Print => Vec::new(),
        }
    }
}
