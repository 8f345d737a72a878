//! `sampan inspect`: what is in a file that Sampan wrote, or in a whole directory of them.
//!
//! What it is: reading, and words; `--json` says the same to programs. Every checksum there is gets
//! checked. What it is not: a repair. It opens files for reading only and changes nothing, not even
//! on a node that runs; what it says of the end of such a node's log may be over already.

mod directory;
mod facts;
mod files;
mod names;

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use facts::Facts;

use crate::backup::Place;
use crate::exit::{self, Ended, Failure};
use crate::terminal::print_line;

/// Says what is in a file that Sampan wrote, or in a directory of a node or cluster
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A segment, hard state, snapshot or other file; a data directory; a directory of
    /// `sampan cluster`; a backup, also as s3://BUCKET/KEY
    #[arg(value_name = "PATH|URL")]
    path: Place,
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Each batch and each entry of the log as well
    #[arg(long)]
    entries: bool,
}

/// Prints what there is; a failure names the first damage.
pub(crate) fn run(args: &InspectArgs) -> Ended {
    exit::block_on(async {
        let facts = inspect(args).await?;
        let printed = print_line(&if args.json { facts.json() } else { facts.text() });
        match facts.damage() {
            None => printed.map(|()| ExitCode::SUCCESS),
            // Whether or not anybody could be told the rest.
            Some(damage) => {
                Err(Failure::new(exit::DATA_DAMAGED, damage.line(&args.path.to_string())))
            }
        }
    })
}

async fn inspect(args: &InspectArgs) -> Result<Facts, Failure> {
    match &args.path {
        Place::File(path) => directory_or_file(path, args.entries).await,
        #[cfg(feature = "s3")]
        place @ Place::S3(_) => files::snapshot(place).await,
    }
}

/// Nothing else: a pipe can be read but once, and one that nobody writes to would be waited for.
async fn directory_or_file(path: &Path, entries: bool) -> Result<Facts, Failure> {
    let kind = fs::metadata(path).map_err(|error| unreadable(path, &error))?.file_type();
    if kind.is_dir() {
        return directory::facts(path, entries).await;
    }
    if kind.is_file() {
        return files::facts(path, entries).await;
    }
    let what = if kind.is_fifo() { "a pipe" } else { "a device or a socket" };
    Err(Failure::usage(format!("{} is {what}: want a file, or a directory", path.display())))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(exit::DISK_FAILED, format!("{}: {error}", path.display()))
}
