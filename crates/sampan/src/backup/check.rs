//! Is a backup what was written, and what is in it? Checked while it passes, in the memory of one
//! chunk: the checksums of its file, and the digest of the state in it.

use std::fmt;

use sampan_kv::{Digest, Examination, Findings};
use sampan_server::Utc;
use sampan_storage::inspect::FileKind;
use sampan_storage::snapshot::{SnapshotEnd, SnapshotError, SnapshotPart, SnapshotStream};

use crate::exit::{self, Failure};

/// A check under way.
pub(crate) struct Check {
    /// What errors call it; none: whoever tells of them names it.
    name: Option<String>,
    stream: SnapshotStream,
    examination: Examination,
}

/// What a whole and sound backup is.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) end: SnapshotEnd,
    pub(crate) findings: Findings,
}

impl Check {
    /// Of something that errors call by this name.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: Some(name.to_owned()), stream: SnapshotStream::new(name), ..Self::unnamed() }
    }

    /// Of something that whoever tells of its errors names.
    pub(crate) fn unnamed() -> Self {
        Self { name: None, stream: SnapshotStream::new("it"), examination: Examination::default() }
    }

    /// Takes the next bytes; each part that they complete is shown to `each`.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&SnapshotPart) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.stream.feed(bytes);
        while let Some(part) = self.next_part()? {
            if let SnapshotPart::Chunk(payload) = &part {
                let fed = self.examination.feed(payload);
                fed.map_err(|error| bad_state(self.name.as_deref(), error))?;
            }
            each(&part)?;
        }
        Ok(())
    }

    /// All bytes were there: the verdict.
    pub(crate) fn finish(self) -> Result<Checked, Failure> {
        let Self { name, stream, examination } = self;
        let name = name.as_deref();
        let end = stream.finish().map_err(|error| refused(name, &error))?;
        let bad = |why: String| bad_state(name, why);
        let findings = examination.finish().map_err(|error| bad(error.to_string()))?;
        if end.digest != findings.digest.to_bytes() {
            return Err(bad("file and state name different digests".to_owned()));
        }
        Ok(Checked { end, findings })
    }

    fn next_part(&mut self) -> Result<Option<SnapshotPart>, Failure> {
        let part = self.stream.next_part();
        part.map_err(|error| refused(self.name.as_deref(), &error))
    }
}

/// Refuses what does not begin as a backup does. That another file of Sampan's does not is no
/// damage.
pub(crate) fn check_kind(name: impl fmt::Display, first_bytes: &[u8]) -> Result<(), Failure> {
    match FileKind::of(first_bytes) {
        FileKind::Snapshot => Ok(()),
        FileKind::Zeros | FileKind::Unknown => Err(of_nobody(name)),
        other => {
            Err(Failure::usage(format!("{name} is no backup (it is of kind: {})", other.name())))
        }
    }
}

/// Nobody can tell what else it may be.
pub(crate) fn of_nobody(name: impl fmt::Display) -> Failure {
    damaged(format!("{name}: not a file that Sampan wrote, or its first bytes are damaged"))
}

fn bad_state(name: Option<&str>, error: impl fmt::Display) -> Failure {
    let name = name.unwrap_or("it");
    damaged(format!("the state in {name} is not what was written: {error}"))
}

fn refused(name: Option<&str>, error: &SnapshotError) -> Failure {
    let name = name.map_or_else(String::new, |name| format!("{name} is damaged "));
    damaged(match error {
        SnapshotError::Damaged { offset, why, .. } => format!("{name}at offset {offset}: {why}"),
        error => error.to_string(),
    })
}

fn damaged(text: String) -> Failure {
    Failure::new(exit::DATA_DAMAGED, text)
}

impl Checked {
    /// The digest of the state in it.
    pub(crate) fn digest(&self) -> Digest {
        self.findings.digest
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, found) = (&self.end.header, &self.findings);
        let position = header.meta.position;
        writeln!(
            f,
            "cluster {} through index {} (term {}), members {}, by {}",
            header.maker.cluster,
            position.index,
            position.term,
            header.meta.configuration,
            header.maker.node
        )?;
        writeln!(
            f,
            "{} keys ({} with a time to live, {} of them over), {} sessions, log time {}",
            found.keys,
            found.expires,
            found.expired,
            found.sessions,
            Utc(found.time)
        )?;
        write!(f, "digest {}", found.digest)
    }
}
