//! The settings that must be the same on all nodes of a cluster and at all of their starts, because
//! they decide what applying an entry does ([`Limits::of_state`]): as they stand on disk and go
//! over the wire, and how those of somebody else differ.

use sampan_kv::Limits;

/// Their values, in the order of [`Limits::of_state`].
pub(crate) fn values(limits: &Limits) -> Vec<u64> {
    limits.of_state().map(|(_, value)| value).to_vec()
}

/// The first one that is another there, in words that name its flag; `None` if none is.
pub(crate) fn difference(here: &Limits, there: &[u64]) -> Option<String> {
    let settings = here.of_state();
    let mut pairs = settings.iter().zip(there);
    if let Some(((name, here), there)) = pairs.find(|((_, here), there)| here != *there) {
        return Some(format!("--{} {there} there, {here} here", name.replace('_', "-")));
    }
    let counts = (there.len(), settings.len());
    (counts.0 != counts.1).then(|| format!("{} of them there, {} here", counts.0, counts.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_that_differs_is_named_by_its_flag() {
        let here = Limits::default();
        assert_eq!(difference(&here, &values(&here)), None);
        let there = Limits { session_ttl_ms: 5_000, reclaim_per_batch_max: 1, ..here };
        let words = difference(&here, &values(&there));
        assert_eq!(words.as_deref(), Some("--session-ttl-ms 5000 there, 3600000 here"));
        // Of another version, which knows fewer: that one differs says more.
        assert_eq!(
            difference(&here, &[7]).as_deref(),
            Some("--value-bytes-max 7 there, 1048576 here")
        );
        assert_eq!(difference(&here, &[]).as_deref(), Some("0 of them there, 7 here"));
    }
}
