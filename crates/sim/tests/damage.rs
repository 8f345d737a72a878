//! A small `sampan-sim damage`: no change of any byte goes unnoticed where it matters.

use std::time::Duration;

use sampan_sim::damage::{DamageSweep, damage};

#[test]
fn any_damage_is_harmless_or_healed_or_repaired_by_peers_or_refused() {
    let sweep = DamageSweep {
        from: 1,
        seeds: 4,
        safety: Duration::from_secs(2),
        every: 211,
        continued: 16,
        threads: 2,
    };
    let report = damage(sweep, |failure| println!("{failure}"));
    println!("{report}");
    assert!(report.failures.is_empty());
    assert_eq!(report.all_at_once, 4);
    assert_eq!(report.classes(), ["hard state", "identity", "log", "snapshot", "spare"]);
    let (tried, continued) = (report.total(), report.continued());
    assert!(tried.iter().all(|&cases| cases > 20), "{tried:?}");
    assert!(continued.iter().all(|&cases| cases > 0), "{continued:?}");
}
