//! Log lines: one event a line on standard error, with time and node id.
//!
//! A thread writes them, so that a reader who does not read never stops the node: when its queue is
//! full, lines are dropped and counted.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sampan_base::NodeId;

use crate::time::{Utc, wall};

/// Lines waiting to be written, at most.
const LINES_MAX: usize = 1_024;
/// The end of a process waits no longer for those who read its lines.
const SETTLE_MS: usize = 200;

/// Takes lines and returns at once.
#[derive(Clone)]
pub(crate) struct Log {
    node: NodeId,
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
    /// Taken, and not written yet.
    waiting: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread. It ends when the last clone is dropped.
    pub(crate) fn start(node: NodeId) -> Self {
        let (log, queue) = Self::new(node);
        let waiting = log.waiting.clone();
        let write = move || write_all(&queue, &waiting);
        let spawned = thread::Builder::new().name("log".into()).spawn(write);
        // Without a thread the queue is closed, and every line counts as dropped.
        drop(spawned);
        log
    }

    /// Drops all lines.
    pub(crate) fn quiet(node: NodeId) -> Self {
        Self::new(node).0
    }

    fn new(node: NodeId) -> (Self, Receiver<String>) {
        let (lines, queue) = sync_channel(LINES_MAX);
        (Self { node, lines, dropped: Arc::default(), waiting: Arc::default() }, queue)
    }

    /// Takes one line.
    pub(crate) fn line(&self, text: impl std::fmt::Display) {
        let line = format!("{} {} {text}\n", Utc(wall()), self.node);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.lines.try_send(line).is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Before the process ends: waits until all is written, unless nobody reads it.
    pub(crate) fn settle(&self) {
        for _ in 0..SETTLE_MS {
            if self.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes one line that somebody should see: supervisors look for the word.
    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        self.line(format_args!("warning: {text}"));
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write_all(queue: &Receiver<String>, waiting: &AtomicU64) {
    let stderr = std::io::stderr();
    for line in queue {
        // Nobody can be told that standard error is gone.
        _ = stderr.lock().write_all(line.as_bytes());
        waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
