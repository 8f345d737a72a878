//! Backpressure of commands that copy long stored values.
//!
//! To change a part of a value is to make its record anew: a pipeline of small commands on one long
//! value is seconds of work on every node, and what others write meanwhile stands behind it in the
//! log. So a leader takes such commands only while those under way copy less than one turn may
//! apply; then their lines wait, one after another, and all else overtakes them. What is short
//! costs nothing here.

use crate::lines::Origin;
use crate::replica::Replica;

impl Replica {
    /// Bytes of stored values that a command about to be taken will copy, about: too many rather
    /// than too few. Commands that an earlier leader left in the log may have made any value as
    /// long as it can be.
    pub(crate) fn work_bytes(&self, command: &[u8]) -> usize {
        if self.applied.term != self.raft.term() && sampan_kv::copies_a_value(command) {
            return self.options.kv.value_bytes_max;
        }
        self.kv.work_bytes(command, &self.writes.ahead)
    }

    /// Must commands that copy long values wait, those of lines behind others in any case?
    fn holds_copies(&self) -> bool {
        !self.held_to_copy.is_empty() || !self.writes.may_copy()
    }

    /// Must this command wait before it copies a long value?
    pub(crate) fn waits_to_copy(&self, command: &[u8]) -> bool {
        self.holds_copies() && self.writes.is_long_copy(command, self.work_bytes(command))
    }

    /// Something waits until more long values may be copied.
    pub(crate) fn hold_to_copy(&mut self, origin: Origin) {
        let line = self.lines.line(origin);
        if !std::mem::replace(&mut line.waits_to_copy, true) {
            self.held_to_copy.push_back(origin);
        }
    }

    /// Would a line that waits go on now?
    pub(crate) fn has_copies_to_start(&self) -> bool {
        !self.held_to_copy.is_empty() && self.writes.may_copy()
    }

    /// Lines that waited start what may be started, the first one first. One that has to wait again
    /// goes behind the others.
    pub(crate) fn resume_copies(&mut self) {
        let mut held = std::mem::take(&mut self.held_to_copy);
        while self.writes.may_copy()
            && let Some(origin) = held.pop_front()
        {
            if let Some(line) = self.lines.get_mut(origin) {
                line.waits_to_copy = false;
            }
            self.pump(origin);
        }
        held.append(&mut self.held_to_copy);
        self.held_to_copy = held;
    }
}
