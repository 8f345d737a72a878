//! What a run is to do, checked before anything is sent.

use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::keys::Distribution;
use crate::mix::{Mix, Op};

/// Everything about a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Client addresses, `host:port`; connections go to them in turn.
    pub servers: Vec<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Which commands.
    pub mix: Mix,
    /// How many keys, `0..keys`.
    pub keys: u64,
    /// How they are chosen.
    pub distribution: Distribution,
    /// Length of the values that `SET` writes, in bytes.
    pub value_bytes: usize,
    /// Connections, or Clerks.
    pub connections: usize,
    /// Commands in flight on one connection at most. Closed loop over RESP: sent together, and the
    /// next ones when all are answered.
    pub pipeline: usize,
    /// Threads that the connections are spread over.
    pub threads: usize,
    /// Open loop: commands due per second, by all connections together. `None`: closed loop.
    pub rate: Option<u64>,
    /// Commands before this are sent and not measured.
    #[serde(rename = "warm_up_seconds", serialize_with = "seconds")]
    pub warm_up: Duration,
    /// When to stop sending.
    pub end: End,
    /// A command without an answer for this long has failed, and its connection with it.
    #[serde(rename = "timeout_seconds", serialize_with = "seconds")]
    pub timeout: Duration,
    /// The length of one point of the plots over time.
    #[serde(rename = "interval_seconds", serialize_with = "seconds")]
    pub interval: Duration,
    /// Write every key before the run.
    pub fill: bool,
    /// Decides all that is random.
    pub seed: u64,
}

/// What connections speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The Redis protocol, version 2, to any server.
    Resp,
    /// Sampan's Clerk: each connection a session, writes applied exactly once.
    Clerk,
}

/// When to stop sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// After this time, the warm-up not included.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    After(Duration),
    /// After this many commands, those of the warm-up included.
    Count(u64),
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// A plan that cannot be carried out.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{setting}: {why}")]
pub struct PlanError {
    /// The setting at fault, named as in [`Plan`].
    pub setting: &'static str,
    /// What is wrong, and what is accepted.
    pub why: String,
}

/// The longest run, warm-up included.
const RUN_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of commands that may be in flight, over all connections: they are held in memory.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 30;
/// The most points over time.
const INTERVALS_MAX: u128 = 100_000;
/// Calls a Clerk may have in flight.
const CLERK_WINDOW_MAX: usize = 1_024;

impl Plan {
    /// Is every setting within its range, and do they go together?
    pub fn check(&self) -> Result<(), PlanError> {
        let require = |holds: bool, setting: &'static str, why: &str| {
            if holds { Ok(()) } else { Err(PlanError { setting, why: why.to_owned() }) }
        };
        require(!self.servers.is_empty(), "servers", "there is none")?;
        require((1..=1_000_000_000_000).contains(&self.keys), "keys", "want 1 to 10^12")?;
        require(self.value_bytes <= 64 << 20, "value_bytes", "at most 64 MiB")?;
        require((1..=60_000).contains(&self.connections), "connections", "want 1 to 60000")?;
        require((1..=100_000).contains(&self.pipeline), "pipeline", "want 1 to 100000")?;
        let is_clerk = self.protocol == Protocol::Clerk;
        let clerk_window = !is_clerk || self.pipeline <= CLERK_WINDOW_MAX;
        require(clerk_window, "pipeline", "a Clerk has at most 1024 calls in flight")?;
        let commands = self.connections.saturating_mul(self.pipeline);
        let bytes = commands.saturating_mul(self.value_bytes + 128);
        let why = "connections x pipeline x value_bytes is more than 1 GiB in flight";
        require(bytes <= IN_FLIGHT_BYTES_MAX, "pipeline", why)?;
        let threads = 1..=self.connections.min(256);
        require(
            threads.contains(&self.threads),
            "threads",
            "want 1 to the connections, at most 256",
        )?;
        let rates = 1..=100_000_000;
        let rate = self.rate.is_none_or(|rate| rates.contains(&rate));
        require(rate, "rate", "want 1 to 100000000 a second")?;
        let lasts = match self.end {
            End::After(time) => {
                require(!time.is_zero(), "seconds", "want more than none")?;
                self.warm_up + time
            }
            End::Count(count) => {
                require(count > 0, "count", "want 1 or more")?;
                self.warm_up
            }
        };
        require(lasts <= RUN_MAX, "seconds", "a run lasts at most a day")?;
        require(!self.timeout.is_zero(), "timeout", "want more than none")?;
        let interval = self.interval >= Duration::from_millis(10);
        require(interval, "interval", "want 10 ms or more")?;
        let intervals = lasts.as_nanos() / self.interval.as_nanos() <= INTERVALS_MAX;
        require(intervals, "interval", "more than 100000 of them in the run")
    }

    /// The run that writes every key once, before this one.
    pub(crate) fn filling(&self) -> Self {
        let connections = self.connections.min(16);
        Self {
            mix: Mix::only(Op::Set),
            distribution: Distribution::Sequential,
            connections,
            threads: self.threads.min(connections),
            pipeline: ((1 << 20) / (self.value_bytes + 128)).clamp(1, 64),
            rate: None,
            warm_up: Duration::ZERO,
            end: End::Count(self.keys),
            fill: false,
            ..self.clone()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            servers: vec!["127.0.0.1:1".to_owned()],
            protocol: Protocol::Resp,
            mix: Mix::only(Op::Set),
            keys: 100,
            distribution: Distribution::Uniform,
            value_bytes: 64,
            connections: 4,
            pipeline: 2,
            threads: 1,
            rate: None,
            warm_up: Duration::ZERO,
            end: End::After(Duration::from_secs(1)),
            timeout: Duration::from_secs(1),
            interval: Duration::from_millis(100),
            fill: false,
            seed: 1,
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        plan().check().unwrap();
        let fault = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.check().unwrap_err().setting
        };
        assert_eq!(fault(|plan| plan.servers.clear()), "servers");
        assert_eq!(fault(|plan| plan.keys = 0), "keys");
        assert_eq!(fault(|plan| plan.connections = 0), "connections");
        assert_eq!(fault(|plan| plan.pipeline = 0), "pipeline");
        assert_eq!(fault(|plan| plan.threads = 5), "threads");
        assert_eq!(fault(|plan| plan.rate = Some(0)), "rate");
        assert_eq!(fault(|plan| plan.end = End::Count(0)), "count");
        assert_eq!(fault(|plan| plan.end = End::After(Duration::ZERO)), "seconds");
        assert_eq!(fault(|plan| plan.warm_up = RUN_MAX), "seconds");
        assert_eq!(fault(|plan| plan.timeout = Duration::ZERO), "timeout");
        assert_eq!(fault(|plan| plan.interval = Duration::ZERO), "interval");
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        let mut clerks = plan();
        clerks.protocol = Protocol::Clerk;
        clerks.pipeline = 1_025;
        assert!(clerks.check().unwrap_err().to_string().contains("1024 calls"));
        let mut heavy = plan();
        heavy.value_bytes = 1 << 20;
        heavy.pipeline = 256;
        assert!(heavy.check().unwrap_err().to_string().contains("1 GiB"));
    }

    #[test]
    fn filling_writes_every_key_once() {
        let mut plan = plan();
        plan.mix = "get:9,set:1".parse().unwrap();
        plan.rate = Some(10);
        plan.connections = 500;
        let filling = plan.filling();
        filling.check().unwrap();
        assert_eq!((filling.end, filling.rate), (End::Count(100), None));
        assert_eq!(filling.distribution, Distribution::Sequential);
        assert_eq!(filling.mix, Mix::only(Op::Set));
    }
}
