//! 3B: the service with snapshots.

use super::clerk::Clerk;
use super::generic::check_sizes;
use super::lab::{Lab, Outcome, Setup, ensure};
use super::tester::E_MS;

/// The log size at which a server takes a snapshot, in bytes.
pub(crate) const RAFT_STATE_BYTES_MAX: u64 = 1_000;
/// The largest snapshot of a state of one short key, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 500;

/// A server that fell behind the others' logs gets a snapshot, and serves by it.
pub(crate) async fn install_snapshot(lab: Lab, setup: Setup) -> Outcome {
    let mut clerk = Clerk::new(&lab, 0);
    clerk.put("a", "A").await?;
    clerk.check("a", "A").await?;
    lab.partition(&[true, true, false]);
    {
        let mut clerk = Clerk::reaching(&lab, 1, &[0, 1]);
        for i in 0..50 {
            clerk.put(&i.to_string(), &i.to_string()).await?;
        }
        lab.sleep_ms(E_MS).await;
        clerk.put("b", "B").await?;
    }
    check_sizes(&lab, setup)?;
    lab.partition(&[true, false, true]);
    {
        let mut clerk = Clerk::reaching(&lab, 2, &[0, 2]);
        clerk.put("c", "C").await?;
        clerk.put("d", "D").await?;
        for (key, value) in [("a", "A"), ("b", "B"), ("1", "1"), ("49", "49")] {
            clerk.check(key, value).await?;
        }
    }
    lab.connect_all();
    clerk.put("e", "E").await?;
    for (key, value) in [("c", "C"), ("e", "E"), ("1", "1")] {
        clerk.check(key, value).await?;
    }
    lab.state().record.check()
}

/// The snapshot of a small state is small, however many commands led to it.
pub(crate) async fn snapshot_size(lab: Lab, setup: Setup) -> Outcome {
    let mut clerk = Clerk::new(&lab, 0);
    for _ in 0..200 {
        for value in ["0", "1"] {
            clerk.put("x", value).await?;
            clerk.check("x", value).await?;
        }
    }
    check_sizes(&lab, setup)?;
    let size = lab.snapshot_size()?;
    ensure(size > 0, || "no snapshot was taken".into())?;
    ensure(size <= SNAPSHOT_BYTES_MAX, || format!("a snapshot of {size} bytes"))?;
    lab.state().record.check()
}
