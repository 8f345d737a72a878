//! Every limit of the state machine, in one place (rule R14).
//!
//! Three sorts. *Door* limits are checked by [`parse`](crate::parse) before a command is proposed
//! and may differ between nodes for a while. *Replicated* limits decide results while applying:
//! every node of a cluster must have the same values, or replicas diverge. *Local* limits change
//! nothing that is visible. Each field says which it is.

/// Each table takes memory though it is empty, and all of them are made again by each `FLUSHALL`.
const SHARDS_MAX: usize = 1 << 16;

/// The limits of one state machine. `Limits::default()` for use, [`Limits::tiny`] for tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Door: the longest key.
    pub key_bytes_max: usize,
    /// Replicated: the longest value, also of what APPEND and SETRANGE may build, and the longest
    /// reply that a session remembers.
    pub value_bytes_max: usize,
    /// Door: the most arguments one command has, its name included.
    pub arguments_max: usize,
    /// Door: the longest encoded command.
    pub command_bytes_max: usize,
    /// Door: the most bytes of values in the reply to one read (MGET).
    pub reply_bytes_max: usize,
    /// Replicated: the most sessions; opening one more evicts the least recently used.
    pub sessions_max: usize,
    /// Replicated: the most replies one session holds that its client has not acknowledged.
    pub session_window_max: usize,
    /// Replicated: a session that holds this much executes nothing new until its client
    /// acknowledges. It may be exceeded by one reply.
    pub session_window_bytes_max: usize,
    /// Replicated: what all sessions hold together; above it the least recently used are evicted.
    pub session_bytes_total_max: usize,
    /// Replicated: a session unused for this long, by log time, is gone.
    pub session_ttl_ms: u64,
    /// Local: the number of tables that the keys are spread over, a power of two up to 65536. More
    /// tables make each of them smaller, and one that grows stops the state machine for as long as
    /// it takes to move what is in it: at ten million keys 2 048 tables keep that below a
    /// millisecond.
    pub shards: usize,
    /// Replicated: the most keys, and the most sessions, whose time is over that one batch removes
    /// from memory. Results never depend on the removal.
    pub reclaim_per_batch_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 65_536,
            value_bytes_max: 1 << 20,
            arguments_max: 65_536,
            command_bytes_max: 4 << 20,
            reply_bytes_max: 64 << 20,
            sessions_max: 65_536,
            session_window_max: 1_024,
            session_window_bytes_max: 4 << 20,
            session_bytes_total_max: 256 << 20,
            session_ttl_ms: 3_600_000,
            shards: 2_048,
            reclaim_per_batch_max: 512,
        }
    }
}

impl Limits {
    /// Limits so low that a short test meets each of them.
    #[must_use]
    pub const fn tiny() -> Self {
        Self {
            key_bytes_max: 16,
            value_bytes_max: 64,
            arguments_max: 12,
            command_bytes_max: 256,
            reply_bytes_max: 512,
            sessions_max: 3,
            session_window_max: 4,
            session_window_bytes_max: 512,
            session_bytes_total_max: 1_024,
            session_ttl_ms: 1_000,
            shards: 2,
            reclaim_per_batch_max: 2,
        }
    }

    /// The limits that decide what applying an entry does, by name. Nodes that differ in one become
    /// different stores, and so does one that applies a part of the log by other limits than
    /// before: they are what a cluster was made with, for good.
    #[must_use]
    pub const fn of_state(&self) -> [(&'static str, u64); 7] {
        [
            ("value_bytes_max", self.value_bytes_max as u64),
            ("sessions_max", self.sessions_max as u64),
            ("session_window_max", self.session_window_max as u64),
            ("session_window_bytes_max", self.session_window_bytes_max as u64),
            ("session_bytes_total_max", self.session_bytes_total_max as u64),
            ("session_ttl_ms", self.session_ttl_ms),
            ("reclaim_per_batch_max", self.reclaim_per_batch_max as u64),
        ]
    }

    /// Says what is wrong with these limits, if anything.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("key_bytes_max", self.key_bytes_max),
            ("value_bytes_max", self.value_bytes_max),
            ("arguments_max", self.arguments_max),
            ("command_bytes_max", self.command_bytes_max),
            ("sessions_max", self.sessions_max),
            ("session_window_max", self.session_window_max),
            ("session_window_bytes_max", self.session_window_bytes_max),
            ("reclaim_per_batch_max", self.reclaim_per_batch_max),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.key_bytes_max.max(self.value_bytes_max) > crate::record::PART_BYTES_MAX {
            return Err(format!(
                "key_bytes_max {} and value_bytes_max {} must be at most {}",
                self.key_bytes_max,
                self.value_bytes_max,
                crate::record::PART_BYTES_MAX
            ));
        }
        if !self.shards.is_power_of_two() {
            return Err(format!("shards {} must be a power of two", self.shards));
        }
        if self.shards > SHARDS_MAX {
            return Err(format!("shards is {}: want at most {SHARDS_MAX}", self.shards));
        }
        let one_session = self.session_window_bytes_max.saturating_add(self.value_bytes_max);
        if self.session_bytes_total_max < one_session {
            return Err(format!(
                "session_bytes_total_max {} must hold one full session of {one_session} bytes",
                self.session_bytes_total_max
            ));
        }
        if self.session_ttl_ms == 0 {
            return Err("session_ttl_ms must be at least 1".to_owned());
        }
        Ok(())
    }
}
