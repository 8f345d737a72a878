//! When commands are due: the schedule of an open loop, and how many a connection may send now.
//!
//! Command `j` of an open loop is due at `j / rate`, and belongs to connection `j mod connections`;
//! so every connection has a schedule of its own that depends on nothing but the clock.

/// A command of an open loop that was due before the end may be this late at the end.
const GRACE_NS: u64 = 100_000_000;

/// The schedule of an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Commands per second, of all connections.
    pub(crate) rate: u64,
    pub(crate) connections: u64,
}

impl Schedule {
    /// When the `turn`-th command of a connection is due, in nanoseconds since the start.
    pub(crate) fn due_ns(&self, connection: u64, turn: u64) -> u64 {
        let command = u128::from(turn) * u128::from(self.connections) + u128::from(connection);
        (command * 1_000_000_000 / u128::from(self.rate)) as u64
    }

    /// How many commands of all connections are due before a moment.
    pub(crate) fn due_before(&self, moment_ns: u64) -> u64 {
        (u128::from(moment_ns) * u128::from(self.rate)).div_ceil(1_000_000_000) as u64
    }
}

/// What decides when a connection sends its next commands.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    loop_: Loop,
    /// Commands in flight at most.
    pipeline: usize,
}

#[derive(Clone, Debug)]
enum Loop {
    /// As answers come; only when all have come if `in_step`.
    Closed {
        in_step: bool,
    },
    Open {
        schedule: Schedule,
        connection: u64,
        turn: u64,
    },
}

impl Flow {
    /// A closed loop. `in_step`: a whole pipeline at once, as `redis-benchmark` does it.
    pub(crate) const fn closed(pipeline: usize, in_step: bool) -> Self {
        Self { loop_: Loop::Closed { in_step }, pipeline }
    }

    pub(crate) const fn open(pipeline: usize, schedule: Schedule, connection: u64) -> Self {
        Self { loop_: Loop::Open { schedule, connection, turn: 0 }, pipeline }
    }

    /// How many commands may be sent, with `under_way` unanswered ones.
    pub(crate) const fn room(&self, under_way: usize) -> usize {
        match self.loop_ {
            Loop::Closed { in_step: true } if under_way > 0 => 0,
            _ => self.pipeline.saturating_sub(under_way),
        }
    }

    /// The moment from which the next command's latency counts, if that has come and is before the
    /// end: when it was due, which may be long ago, or in a closed loop now.
    pub(crate) fn next(&mut self, now_ns: u64, end_ns: u64) -> Option<u64> {
        match &mut self.loop_ {
            Loop::Closed { .. } => (now_ns < end_ns).then_some(now_ns),
            Loop::Open { schedule, connection, turn } => {
                let due_ns = schedule.due_ns(*connection, *turn);
                let in_time = due_ns < end_ns && now_ns < end_ns.saturating_add(GRACE_NS);
                let is_due = due_ns <= now_ns && in_time;
                *turn += u64::from(is_due);
                is_due.then_some(due_ns)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn the_schedule_has_as_many_commands_as_the_rate_says() {
        let schedule = Schedule { rate: 3_000, connections: 7 };
        for moment_ns in [1, SECOND_NS / 3, SECOND_NS, 5 * SECOND_NS + 1] {
            let due = |connection| {
                (0..100_000)
                    .take_while(|turn| schedule.due_ns(connection, *turn) < moment_ns)
                    .count()
            };
            let total: usize = (0..7).map(due).sum();
            assert_eq!(total as u64, schedule.due_before(moment_ns), "at {moment_ns}");
        }
        assert_eq!(schedule.due_before(5 * SECOND_NS), 15_000);
    }

    #[test]
    fn commands_are_spread_evenly_and_do_not_drift() {
        let schedule = Schedule { rate: 7, connections: 2 };
        assert_eq!(schedule.due_ns(0, 0), 0);
        assert_eq!(schedule.due_ns(1, 0), 142_857_142);
        assert_eq!(schedule.due_ns(0, 1), 285_714_285);
        let a_year = 7 * 365 * 86_400;
        assert_eq!(schedule.due_ns(0, a_year / 2), 365 * 86_400 * SECOND_NS);
    }

    #[test]
    fn a_stalled_open_loop_owes_the_time_since_each_command_was_due() {
        // One a millisecond; the server stops from 2 ms to 10 ms, one command in flight.
        let schedule = Schedule { rate: 1_000, connections: 1 };
        let mut flow = Flow::open(1, schedule, 0);
        let ms = 1_000_000;
        assert_eq!(flow.next(0, SECOND_NS), Some(0));
        assert_eq!(flow.next(0, SECOND_NS), None, "the next one is not due");
        assert_eq!(flow.next(2 * ms, SECOND_NS), Some(ms));
        assert_eq!(flow.room(1), 0, "it waits for the answer");
        let owed: Vec<u64> = std::iter::from_fn(|| flow.next(10 * ms, SECOND_NS)).collect();
        assert_eq!(owed, (2..=10).map(|at| at * ms).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_due_at_the_end_is_not_sent_nor_what_is_late_by_then() {
        let schedule = Schedule { rate: 2, connections: 1 };
        let mut flow = Flow::open(8, schedule, 0);
        let late = SECOND_NS + GRACE_NS;
        assert_eq!(flow.next(late, SECOND_NS), None, "too late");
        assert_eq!(flow.next(late - 1, SECOND_NS), Some(0));
        assert_eq!(flow.next(late - 1, SECOND_NS), Some(SECOND_NS / 2));
        assert_eq!(flow.next(late - 1, SECOND_NS), None, "due at the end");
        assert_eq!(Flow::closed(8, true).next(SECOND_NS, SECOND_NS), None);
        assert_eq!(Flow::closed(8, true).next(5, SECOND_NS), Some(5));
    }

    #[test]
    fn a_closed_loop_refills_in_step_or_as_answers_come() {
        let in_step = Flow::closed(16, true);
        assert_eq!((in_step.room(0), in_step.room(1), in_step.room(16)), (16, 0, 0));
        let as_answered = Flow::closed(16, false);
        assert_eq!((as_answered.room(0), as_answered.room(1), as_answered.room(16)), (16, 15, 0));
    }
}
