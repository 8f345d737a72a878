//! One Clerk: a session of its own, and as many calls in flight as the pipeline allows.

use std::sync::Arc;

use bytes::Bytes;
use sampan_client::{Clerk, Error};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::mix::Op;
use crate::pace::Flow;
use crate::request::{Requests, key, value};
use crate::tally::{Sent, kind_of};
use crate::worker::{Desk, Shared};

/// A Clerk and the calls it is to make.
pub(crate) struct Caller {
    desk: Desk,
    flow: Flow,
    requests: Requests,
    wake: Arc<Notify>,
    clerk: Clerk,
    value: Bytes,
}

/// A call that has ended: found its key, found none, or failed.
type Ended = (Sent, Result<bool, Error>);

impl Caller {
    /// A Clerk whose first node is the one whose turn it is, and is one.
    pub(crate) async fn connect(shared: Arc<Shared>, number: u64) -> Result<Clerk, String> {
        let mut servers = shared.plan.servers.clone();
        let first = number as usize % servers.len();
        servers.rotate_left(first);
        let builder = Clerk::builder()
            .addresses(servers)
            .deadline(shared.plan.timeout)
            .window(shared.plan.pipeline);
        let clerk = builder.connect().await.map_err(|error| error.to_string())?;
        match clerk.info(Some("server")).await {
            Ok(info) if info.contains("sampan_version:") => Ok(clerk),
            Err(error @ (Error::Unavailable(_) | Error::Closed)) => Err(error.to_string()),
            _ => Err(format!("{}: not a Sampan node", shared.plan.servers[first])),
        }
    }

    pub(crate) fn new(
        desk: Desk,
        flow: Flow,
        number: u64,
        wake: Arc<Notify>,
        clerk: Clerk,
    ) -> Self {
        let plan = &desk.shared.plan;
        let (requests, value) = (Requests::new(plan, number), value(plan.value_bytes, plan.seed));
        Self { desk, flow, requests, wake, clerk, value }
    }

    /// Calls until the run is over.
    pub(crate) async fn drive(mut self) {
        let is_open = self.desk.shared.plan.rate.is_some();
        let mut calls: JoinSet<Ended> = JoinSet::new();
        loop {
            let now_ns = self.desk.now_ns();
            self.call_due(now_ns, &mut calls);
            if calls.is_empty() && self.desk.is_over(now_ns) {
                break;
            }
            tokio::select! {
                biased;
                Some(ended) = calls.join_next() => {
                    self.count(ended.expect("a call neither panics nor is aborted"));
                }
                () = self.wake.notified(), if is_open => {}
            }
            while let Some(ended) = calls.try_join_next() {
                self.count(ended.expect("a call neither panics nor is aborted"));
            }
        }
        self.clerk.close().await;
    }

    fn call_due(&mut self, now_ns: u64, calls: &mut JoinSet<Ended>) {
        for _ in 0..self.flow.room(calls.len()) {
            let Some(from_ns) = self.flow.next(now_ns, self.desk.shared.end_ns()) else { return };
            let Some(place) = self.desk.shared.claim(now_ns) else { return };
            let (op, number) = self.requests.choose(place);
            let (clerk, value) = (self.clerk.clone(), self.value.clone());
            calls.spawn(async move {
                let result = call(&clerk, op, number, &value).await;
                (Sent { op, from_ns }, result)
            });
        }
    }

    fn count(&self, (sent, result): Ended) {
        let now_ns = self.desk.now_ns();
        let mut tally = self.desk.tally();
        match result {
            Ok(found) => {
                tally.misses += u64::from(!found);
                tally.answered(sent, now_ns);
            }
            Err(error) => tally.failed(kind(&error), 1),
        }
    }
}

/// Makes a call. False only for a `GET` that found nothing.
async fn call(clerk: &Clerk, op: Op, number: u64, value: &Bytes) -> Result<bool, Error> {
    let key = key(op, number);
    match op {
        Op::Get => clerk.get(key).await.map(|value| value.is_some()),
        Op::Set => clerk.set(key, value).await.map(|()| true),
        Op::Incr => clerk.incr_by(key, 1).await.map(|_| true),
        Op::Del => clerk.del([key]).await.map(|_| true),
        Op::Exists => clerk.exists([key]).await.map(|_| true),
        Op::Ping => clerk.command(["PING"]).await.map(|_| true),
    }
}

fn kind(error: &Error) -> &str {
    match error {
        Error::Unknown { .. } => "outcome unknown",
        Error::SessionExpired { .. } => "session expired, outcome unknown",
        Error::Rejected(text) => kind_of(text),
        Error::Unavailable(_) => "unavailable, not applied",
        Error::NoSessions(_) => "not a Sampan node",
        Error::Protocol(_) => "answer against the protocol",
        Error::Invalid(_) => "invalid request",
        Error::Closed => "the Clerk is closed",
    }
}
