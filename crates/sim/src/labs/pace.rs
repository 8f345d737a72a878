//! When the servers of the course's suites speak, and how much at a time: configuration of the
//! shipping consensus that fits the course's network. All else is as shipped.
//!
//! There a call costs the same whatever is in it, calls overtake each other, and answers may take
//! two seconds. Hence long heartbeats (the course wants at most ten a second), few Appends on their
//! way that repeat each other, and a leader that is patient with a quorum it does not hear.

use std::fmt;
use std::time::Duration;

use sampan_raft::Config;

/// All times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The longest silence of a leader.
    heartbeat: u64,
    /// The shortest and the longest election timeout.
    election: (u64, u64),
    /// A leader steps down after this long without a quorum.
    quorum: u64,
    /// The shortest time between two Appends to a server.
    append: u64,
    /// Appends to one server that are on their way.
    inflight: usize,
    /// An Append repeats what is on its way, if that is so few bytes.
    repeat_bytes: usize,
}

impl Pace {
    /// 2A to 2D: commands come now and then, and RPCs are counted.
    pub(crate) const OF_CONSENSUS: Self = Self {
        heartbeat: 300,
        election: (600, 800),
        quorum: 2_000,
        append: 10,
        inflight: 2,
        repeat_bytes: 4_096,
    };

    /// 3A, 3B and the difficulties: clerks wait for each answer, and give a silent server up after
    /// 500 ms.
    pub(crate) const OF_SERVICE: Self = Self {
        heartbeat: 300,
        election: (600, 900),
        quorum: 600,
        append: 0,
        inflight: 1,
        repeat_bytes: 0,
    };

    /// Sets what it is about.
    pub(super) fn apply(self, config: &mut Config) {
        let (shortest, longest) = self.election;
        config.heartbeat_interval = Duration::from_millis(self.heartbeat);
        config.election_timeout_min = Duration::from_millis(shortest);
        config.election_timeout_max = Duration::from_millis(longest);
        config.quorum_grace = Duration::from_millis(self.quorum - shortest);
        config.append_interval = Duration::from_millis(self.append);
        config.inflight_messages_max = self.inflight;
        config.repeat_bytes_max = self.repeat_bytes;
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heartbeat, election: (shortest, longest), quorum, .. } = self;
        write!(
            f,
            "heartbeats every {heartbeat} ms, election timeouts {shortest} to {longest} ms, a leader \
             without a quorum steps down after {quorum} ms; {} Append(s) on the way to a server",
            self.inflight
        )?;
        if self.repeat_bytes > 0 {
            write!(f, ", {} ms apart, repeating up to {} bytes", self.append, self.repeat_bytes)?;
        }
        Ok(())
    }
}
