//! 2A: elections.

use super::lab::{Lab, Outcome, ensure};
use super::tester::E_MS;

/// A leader is elected, and stays while nothing fails.
pub(crate) async fn initial_election(lab: Lab) -> Outcome {
    lab.leader().await?;
    lab.sleep_ms(50).await;
    let term = lab.terms()?;
    ensure(term.0 >= 1, || format!("term {term} after an election"))?;
    lab.sleep_ms(2 * E_MS).await;
    // A change of term would only be a warning in the course; nothing here gives reason for one.
    let later = lab.terms()?;
    ensure(later == term, || format!("term {term} became {later} although nothing failed"))?;
    lab.leader().await?;
    Ok(())
}

/// A new leader takes over; an old one that comes back does not disturb it; none without a quorum.
pub(crate) async fn election_after_network_failure(lab: Lab) -> Outcome {
    let first = lab.leader().await?;
    lab.disconnect(first);
    lab.leader().await?;
    lab.connect(first);
    let second = lab.leader().await?;
    let other = (second + 1) % 3;
    lab.disconnect(second);
    lab.disconnect(other);
    lab.sleep_ms(2 * E_MS).await;
    lab.no_leader()?;
    lab.connect(other);
    lab.leader().await?;
    lab.connect(second);
    lab.leader().await?;
    Ok(())
}

/// Again and again, with up to three of seven cut off.
pub(crate) async fn multiple_elections(lab: Lab) -> Outcome {
    lab.leader().await?;
    for _ in 0..9 {
        let cut: Vec<usize> = (0..3).map(|_| lab.any_server()).collect();
        cut.iter().for_each(|&server| lab.disconnect(server));
        lab.leader().await?;
        cut.iter().for_each(|&server| lab.connect(server));
    }
    lab.leader().await?;
    Ok(())
}
