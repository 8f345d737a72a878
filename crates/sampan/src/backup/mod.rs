//! `sampan backup`: the whole state of a running cluster, from any node, into one file or object.
//!
//! What it is: a copy of a snapshot's bytes from a node (`node.rs`) to where they are kept
//! (`place.rs`), every one of them checked on its way (`check.rs`). It has its name only when it is
//! whole, sound and durable. A node whose bytes are not sound is told so, and asked for others
//! once. What it is not: the choice of the snapshot; the node sees to it that every write
//! acknowledged before this command began is in it.

mod check;
mod file;
mod node;
mod place;
#[cfg(feature = "s3")]
mod s3;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use node::{Finding, Lost, Remote};

use crate::clerk::Servers;
use crate::exit::{self, Ended, Failure};
use crate::interrupt::Interrupt;
use crate::terminal::{complain, print_done};

pub(crate) use check::{Check, Checked, check_kind, of_nobody};
pub(crate) use place::Place;
use place::Writer;

/// Copies the whole state of a running cluster, as of one moment, into a file or object
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// Where to: FILE, or s3://BUCKET/KEY with credentials and endpoint in AWS_* variables
    #[arg(value_name = "FILE|URL")]
    to: Place,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

/// Why an attempt with one node came to nothing.
enum Failed {
    /// Another node may do better.
    Node(String),
    /// The same, for what this one has is not sound, or did not arrive so.
    Damaged(String),
    /// The same, and this one has looked at what it has: by now it may do better itself.
    DamagedAndLooked(String),
    /// No node can help.
    Here(Failure),
}

impl From<Lost> for Failed {
    fn from(Lost(why): Lost) -> Self {
        Self::Node(why)
    }
}

/// Makes a backup from the first node that gives one.
pub(crate) fn run(servers: &Servers, args: &BackupArgs) -> Ended {
    let addresses = servers.addresses()?;
    let time = Duration::from_millis(servers.timeout_ms);
    exit::block_on(async {
        let mut interrupt = Interrupt::listen()?;
        tokio::select! {
            free = args.to.check_free(args.force) => free?,
            interrupted = interrupt.received() => return Err(interrupted),
        }
        let (mut reasons, mut code) = (Vec::new(), exit::UNAVAILABLE);
        let mut left: VecDeque<_> = addresses.iter().map(|address| (address, true)).collect();
        while let Some((address, is_first)) = left.pop_front() {
            match attempt(address, time, args, &mut interrupt).await {
                Ok(text) => {
                    print_done(&text, format_args!("the backup is there: {}", args.to))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Err(Failed::Here(failure)) => return Err(failure),
                Err(Failed::Node(why)) => reasons.push(format!("{address}: {why}")),
                Err(Failed::Damaged(why)) => {
                    code = exit::DATA_DAMAGED;
                    reasons.push(warn_of_damage(address, &why, &left));
                }
                Err(Failed::DamagedAndLooked(why)) => {
                    code = exit::DATA_DAMAGED;
                    if is_first {
                        left.push_front((address, false));
                    }
                    reasons.push(warn_of_damage(address, &why, &left));
                }
            }
        }
        Err(Failure::new(code, format!("no node gave a backup: {}", reasons.join("; "))))
    })
}

/// Damage is worth a line, also where a backup comes of it at last. What is to be said if none
/// does.
fn warn_of_damage(address: &str, why: &str, left: &VecDeque<(&String, bool)>) -> String {
    let why = format!("{address}: {why}");
    if let Some((next, _)) = left.front() {
        complain(format_args!("warning: {why}; beginning anew at {next}"));
    }
    why
}

/// A backup from one node; what to say of it.
async fn attempt(
    address: &str,
    time: Duration,
    args: &BackupArgs,
    interrupt: &mut Interrupt,
) -> Result<String, Failed> {
    let mut remote = tokio::select! {
        begun = Remote::begin(address, time) => begun?,
        interrupted = interrupt.received() => return Err(Failed::Here(interrupted)),
    };
    let started = Instant::now();
    let mut writer = match args.to.write(remote.bytes).await {
        Ok(writer) => writer,
        Err(failure) => {
            remote.end().await;
            return Err(Failed::Here(failure));
        }
    };
    let copied = tokio::select! {
        copied = copy_or_say_damaged(&mut remote, &mut writer) => copied,
        interrupted = interrupt.received() => Err(Failed::Here(interrupted)),
    };
    let checked = match copied {
        Ok(checked) => checked,
        Err(failed) => {
            writer.abandon().await;
            remote.end().await;
            return Err(failed);
        }
    };
    remote.end().await;
    writer.finish(args.force).await.map_err(Failed::Here)?;
    let bytes = checked.end.header.meta.size_bytes;
    let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    Ok(format!("{checked}\n{bytes} bytes from {address} to {} ({rate:.0} MB/s)", args.to))
}

/// Copies and checks all of it. A node whose bytes are not sound is told so: it looks at its file,
/// and one that is damaged there would else be sent again until something is written.
async fn copy_or_say_damaged(remote: &mut Remote, writer: &mut Writer) -> Result<Checked, Failed> {
    match copy(remote, writer).await {
        Err(Failed::Damaged(why)) => {
            let finding = remote.say_damaged().await;
            let why = format!("{why} (the node {finding})");
            Err(match finding {
                Finding::GivenUp | Finding::Sound => Failed::DamagedAndLooked(why),
                Finding::Unknown(_) => Failed::Damaged(why),
            })
        }
        copied => copied,
    }
}

async fn copy(remote: &mut Remote, writer: &mut Writer) -> Result<Checked, Failed> {
    let mut check = Check::new("the backup");
    let damaged = |failure: Failure| Failed::Damaged(failure.text);
    while let Some(bytes) = remote.next().await? {
        check.feed(&bytes, |_| Ok(())).map_err(damaged)?;
        writer.write(bytes).await.map_err(Failed::Here)?;
    }
    check.finish().map_err(damaged)
}
