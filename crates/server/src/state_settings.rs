//! The settings that must be the same on all nodes of a cluster and at all of their starts
//! ([`Options::of_state`]): as they stand on disk and go over the wire, and how those of somebody
//! else differ.

use sampan_base::NodeId;
use sampan_replica::Options;

/// Their names, in the order in which the values stand on disk.
pub fn state_setting_names() -> impl Iterator<Item = &'static str> {
    Options::new(NodeId::of(1)).of_state().into_iter().map(|(name, _)| name)
}

/// Their values, in the order of [`Options::of_state`].
pub(crate) fn values(settings: &[(&str, u64)]) -> Vec<u64> {
    settings.iter().map(|(_, value)| *value).collect()
}

/// The first one that is another there, in words that name its flag; `None` if none is.
pub(crate) fn difference(here: &[(&str, u64)], there: &[u64]) -> Option<String> {
    let mut pairs = here.iter().zip(there);
    if let Some(((name, here), there)) = pairs.find(|((_, here), there)| here != *there) {
        return Some(format!("--{} {there} there, {here} here", name.replace('_', "-")));
    }
    let counts = (there.len(), here.len());
    (counts.0 != counts.1).then(|| format!("{} of them there, {} here", counts.0, counts.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_that_differs_is_named_by_its_flag() {
        let options = Options::new(NodeId::of(1));
        let here = options.of_state();
        assert_eq!(difference(&here, &values(&here)), None);
        let mut there = options.clone();
        there.kv.session_ttl_ms = 5_000;
        there.kv.reclaim_per_batch_max = 1;
        let words = difference(&here, &values(&there.of_state()));
        assert_eq!(words.as_deref(), Some("--session-ttl-ms 5000 there, 3600000 here"));
        let mut there = options;
        there.storage.entry_bytes_max = 2 << 20;
        let words = difference(&here, &values(&there.of_state()));
        assert_eq!(words.as_deref(), Some("--entry-bytes-max 2097152 there, 8388608 here"));
        // Of another version, which knows fewer: that one differs says more.
        assert_eq!(
            difference(&here, &[7]).as_deref(),
            Some("--value-bytes-max 7 there, 1048576 here")
        );
        assert_eq!(difference(&here, &[]).as_deref(), Some("0 of them there, 8 here"));
    }
}
