//! One file, by its first bytes. The name it has matters only where these do not tell, and for
//! whether what is in it counts (`names.rs`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sampan_base::{Configuration, Entry, EntryKind, LogPosition, codec};
use sampan_kv::BatchReader;
use sampan_server::Utc;
use sampan_storage::inspect::{self, BatchContent, FileKind, SegmentContent, SegmentEnd};
use sampan_storage::snapshot::{SnapshotHeader, SnapshotPart};
use sampan_storage::{Identity, PAGE_BYTES};

use super::facts::Facts;
use super::names::{self, Standing};
use super::unreadable;
use crate::backup::{Check, Checked, Place, of_nobody};
use crate::exit::{self, Failure};

const STRANGE_BEGINNING: &str = "it does not begin as a file of this name does";

/// What is in a file.
pub(super) async fn facts(path: &Path, entries: bool) -> Result<Facts, Failure> {
    let mut first = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    // A node that removes the file meanwhile leaves its bytes to whoever holds this.
    _ = file.try_lock_shared();
    (&file).take(8).read_to_end(&mut first).map_err(|error| unreadable(path, &error))?;
    let kind = FileKind::of(&first);
    match Standing::of(path) {
        // Room that nothing was written to yet may be all that there is of it.
        Standing::Unfinished(how)
            if matches!(kind, FileKind::Snapshot | FileKind::Zeros) || names::is_ours(path) =>
        {
            unfinished(path, how).await
        }
        Standing::Leftover => Ok(of_kind(kind, path, entries).await?.leftover()),
        _ => of_kind(kind, path, entries).await,
    }
}

async fn of_kind(kind: FileKind, path: &Path, entries: bool) -> Result<Facts, Failure> {
    // As a start does, which looks at no more.
    let page = || read(path, PAGE_BYTES);
    match kind {
        FileKind::Identity => Ok(identity(path, &page()?)),
        FileKind::Members => Ok(members(path, &page()?)),
        FileKind::HardState => Ok(hard_state(path, &page()?)),
        FileKind::Segment => Ok(segment(path, &segment_bytes(path)?, entries)),
        FileKind::Snapshot => snapshot(&Place::File(path.to_owned())).await,
        FileKind::Zeros if names::is_ours(path) => {
            let facts = zeros(path).await?;
            let holds_nothing = Standing::of(path) == Standing::Leftover;
            Ok(if holds_nothing { facts } else { facts.with_damage(STRANGE_BEGINNING) })
        }
        FileKind::Unknown if names::is_ours(path) => {
            Ok(of(kind.name(), path).with_damage(STRANGE_BEGINNING))
        }
        FileKind::Zeros | FileKind::Unknown => {
            names::of_text(path).ok_or_else(|| of_nobody(path.display()))
        }
    }
}

/// What is in a file, up to so many bytes: it may be of any length, whatever it begins with.
fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

/// A segment as far as its header says, and a byte more if the file is longer; what begins with no
/// header is no more than that.
fn segment_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let page = read(path, PAGE_BYTES)?;
    match inspect::segment_len_bytes(&page) {
        Ok(len_bytes) => read(path, len_bytes.saturating_add(1)),
        Err(_) => Ok(page),
    }
}

fn of(kind: &str, path: &Path) -> Facts {
    Facts::of(kind).with("file", path.display().to_string())
}

fn with_owner(facts: Facts, owner: Identity) -> Facts {
    facts.with("cluster", owner.cluster.to_string()).with("node", owner.node.get())
}

fn identity(path: &Path, bytes: &[u8]) -> Facts {
    let facts = of(FileKind::Identity.name(), path);
    match inspect::identity(bytes) {
        Ok(owner) => with_owner(facts, owner),
        Err(fault) => facts.with_damage(fault),
    }
}

fn members(path: &Path, bytes: &[u8]) -> Facts {
    let facts = of(FileKind::Members.name(), path);
    match inspect::members(bytes) {
        Ok(noted) => {
            let members: Vec<String> = noted.members.iter().map(ToString::to_string).collect();
            let facts = with_owner(facts, noted.owner).with("members", members.join(" "));
            sampan_server::state_setting_names()
                .zip(noted.settings)
                .fold(facts, |facts, (name, value)| facts.with(name, value))
        }
        Err(fault) => facts.with_damage(fault),
    }
}

fn hard_state(path: &Path, bytes: &[u8]) -> Facts {
    let facts = of(FileKind::HardState.name(), path);
    let copy = match inspect::hard_state(bytes) {
        Ok(copy) => copy,
        Err(fault) => return facts.with_damage(fault),
    };
    with_owner(facts, copy.identity)
        .with("sequence", copy.sequence)
        .with("incarnation", copy.incarnation)
        .with("term", copy.hard_state.term.0)
        .with("vote", copy.hard_state.vote.map(sampan_base::NodeId::get))
        .with("synced_batch", copy.synced_batch)
        .with("newest_segment", copy.segment)
        .with("non_voting_until", copy.non_voting_until.map(|index| index.0))
        .with("newborn", copy.newborn)
}

/// The room that is kept for a snapshot is as long as one: it is read a piece at a time.
async fn zeros(path: &Path) -> Result<Facts, Failure> {
    let mut reader = Place::File(path.to_owned()).read().await?;
    let (mut bytes, mut first) = (0, None);
    while let Some(piece) = reader.next().await? {
        let found = piece.iter().position(|&byte| byte != 0);
        first = first.or(found.map(|at| bytes + at));
        bytes += piece.len();
    }
    let facts = of(FileKind::Zeros.name(), path).with("bytes", bytes);
    Ok(facts.with_any("first_byte_that_is_not_zero", first))
}

fn segment(path: &Path, bytes: &[u8], entries: bool) -> Facts {
    let facts = of(FileKind::Segment.name(), path);
    let content = match inspect::segment(bytes) {
        Ok(content) => content,
        Err(fault) => return facts.with_damage(fault),
    };
    let indices = content.batches.iter().flat_map(|batch| &batch.entries).map(|entry| entry.index);
    let (first, last) = (indices.clone().min(), indices.clone().max());
    let facts = with_owner(facts, content.identity)
        .with("number", content.number)
        .with("generation", content.generation)
        .with("bytes", content.len_bytes)
        .with("bytes_used", content.end_offset)
        .with("serves_from", content.serves_from.0)
        .with("first_batch", content.first_batch)
        .with("batches", content.batches.len())
        .with("entries", indices.count())
        .with("first_index", first.map(|index| index.0))
        .with("last_index", last.map(|index| index.0))
        .with("ends", end(&content));
    let facts = match content.end {
        SegmentEnd::Damaged(why) => {
            let (offset, batch) = (content.end_offset, next_batch(&content));
            facts.with_damage(format!("at offset {offset}, batch {batch}: {why}"))
        }
        _ => facts,
    };
    if !entries {
        return facts;
    }
    facts.with("log", content.batches.iter().map(batch).collect::<Vec<_>>())
}

fn next_batch(content: &SegmentContent) -> u64 {
    content.first_batch + content.batches.len() as u64
}

fn end(content: &SegmentContent) -> String {
    match content.end {
        SegmentEnd::Clean if content.earlier.is_empty() => "with zeros".to_owned(),
        SegmentEnd::Clean => {
            let earlier: Vec<String> = content.earlier.iter().map(u64::to_string).collect();
            format!("with what segment {} left in the file", earlier.join(", then "))
        }
        SegmentEnd::Unfinished => format!(
            "with a part of batch {}, cut short by a crash or being written",
            next_batch(content)
        ),
        SegmentEnd::Damaged(_) => "before damage".to_owned(),
    }
}

fn position(position: LogPosition) -> String {
    format!("index {} of term {}", position.index, position.term)
}

fn batch(batch: &BatchContent) -> Facts {
    Facts::default()
        .with("batch", batch.number)
        .with("offset", batch.offset)
        .with("bytes", batch.len_bytes)
        .with_any("log_starts_anew_after", batch.reset.map(position))
        .with("entries", batch.entries.iter().map(entry).collect::<Vec<_>>())
}

fn entry(entry: &Entry) -> Facts {
    let facts = Facts::default().with("index", entry.index.0).with("term", entry.term.0);
    let bytes = entry.data.len();
    match entry.kind {
        EntryKind::Noop => facts.with("content", "no-op"),
        EntryKind::Configuration => {
            let members = Configuration::decode(&mut codec::Reader::new(&entry.data));
            let facts = facts.with("content", "members");
            facts.with("members", members.map_or_else(|e| e.to_string(), |m| m.to_string()))
        }
        EntryKind::Command => {
            let facts = facts.with("content", "commands").with("bytes", bytes);
            match commands(&entry.data) {
                Ok((count, time)) => facts.with("commands", count).with("time", time),
                Err(error) => facts.with("unreadable", error.to_string()),
            }
        }
    }
}

/// How many commands an entry holds, and the time stamped into it.
fn commands(data: &[u8]) -> Result<(usize, String), codec::DecodeError> {
    let mut reader = BatchReader::new(data)?;
    let mut count = 0;
    while reader.next_command()?.is_some() {
        count += 1;
    }
    Ok((count, Utc(reader.time()).to_string()))
}

/// A snapshot or a backup, wherever it is.
pub(super) async fn snapshot(place: &Place) -> Result<Facts, Failure> {
    let facts = Facts::of(FileKind::Snapshot.name()).with("file", place.to_string());
    let read = Read::all_of(place).await?;
    Ok(match &read.verdict {
        Ok(checked) => sound(facts, checked),
        Err(why) => {
            let facts = read.header_says(facts).with("sound_chunks", read.chunks);
            facts.with("bytes_read", read.bytes).with_damage(why)
        }
    })
}

/// A snapshot or a backup of which more is to come. There may be room for that already, with
/// anything in it: what stands behind the chunks that are whole is no damage.
async fn unfinished(path: &Path, how: &str) -> Result<Facts, Failure> {
    let read = Read::all_of(&Place::File(path.to_owned())).await?;
    let facts = of("unfinished snapshot", path).with("state", how);
    let facts = facts.with("whole_chunks", read.chunks).with("bytes_read", read.bytes);
    Ok(match &read.verdict {
        Ok(checked) => sound(facts, checked),
        Err(_) => read.header_says(facts),
    })
}

/// What reading a snapshot found, up to its end or to the first that is not as it should be.
struct Read {
    header: Option<SnapshotHeader>,
    /// Chunks that are whole.
    chunks: u64,
    bytes: usize,
    verdict: Result<Checked, String>,
}

impl Read {
    async fn all_of(place: &Place) -> Result<Self, Failure> {
        let mut reader = place.read().await?;
        let mut check = Check::unnamed();
        let (mut header, mut chunks, mut bytes) = (None, 0_u64, 0);
        let ended = loop {
            let Some(piece) = reader.next().await? else { break check.finish() };
            bytes += piece.len();
            let fed = check.feed(&piece, |part| {
                match part {
                    SnapshotPart::Header(found) => header = Some(found.clone()),
                    SnapshotPart::Chunk(_) => chunks += 1,
                }
                Ok(())
            });
            if let Err(failure) = fed {
                break Err(failure);
            }
        };
        let verdict = match ended {
            Err(Failure { text, code: exit::DATA_DAMAGED }) => Err(text),
            ended => Ok(ended?),
        };
        Ok(Self { header, chunks, bytes, verdict })
    }

    fn header_says(&self, facts: Facts) -> Facts {
        let claims = self.header.as_ref().map(|header| {
            let meta = &header.meta;
            with_owner(Facts::default(), header.maker)
                .with("index", meta.position.index.0)
                .with("term", meta.position.term.0)
                .with("members", meta.configuration.to_string())
        });
        facts.with_any("header_says", claims)
    }
}

fn sound(facts: Facts, checked: &Checked) -> Facts {
    let (header, found) = (&checked.end.header, &checked.findings);
    let meta = &header.meta;
    with_owner(facts, header.maker)
        .with("id", meta.id.to_string())
        .with("index", meta.position.index.0)
        .with("term", meta.position.term.0)
        .with("members", meta.configuration.to_string())
        .with("bytes", meta.size_bytes)
        .with("chunks", checked.end.chunks)
        .with("digest", found.digest.to_string())
        .with("log_time", Utc(found.time).to_string())
        .with("keys", found.keys)
        .with("keys_with_time_to_live", found.expires)
        .with("keys_whose_time_is_over", found.expired)
        .with("record_bytes", found.record_bytes)
        .with("sessions", found.sessions)
        .with("session_replies", found.session_replies)
        .with("next_session", found.next_session)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_is_not_zero_is_found_in_any_piece() {
        let name = format!("{:020}.spare", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut bytes = vec![0; (2 << 20) + 5];
        fs::write(&path, &bytes).unwrap();
        let zeros = of("zeros", &path).with("bytes", bytes.len());
        assert_eq!(facts(&path, false).await, Ok(zeros.clone()));
        bytes[(1 << 20) + 3] = 1;
        bytes[2 << 20] = 1;
        fs::write(&path, &bytes).unwrap();
        let not_zero = zeros.with("first_byte_that_is_not_zero", (1_usize << 20) + 3);
        assert_eq!(facts(&path, false).await, Ok(not_zero));
        fs::remove_file(&path).unwrap();
    }

    /// A terabyte, if all of it were read.
    const HUGE_BYTES: u64 = 1 << 40;

    #[tokio::test]
    async fn of_a_file_that_is_much_too_long_no_more_is_read_than_it_should_have() {
        let path = std::env::temp_dir().join(format!("sampan-huge-{}", std::process::id()));
        for magic in [*b"SAMPIDEN", *b"SAMPMEMB", *b"SAMPHARD", *b"SAMPWAL\0"] {
            fs::write(&path, magic).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(HUGE_BYTES).unwrap();
            let found = facts(&path, false).await.unwrap();
            assert_eq!(found.damage().unwrap().why, "its checksum does not match");
        }
        fs::remove_file(&path).unwrap();
    }
}
