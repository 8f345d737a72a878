//! `BACKUP`: a consistent snapshot of the whole state, read piece by piece (`docs/protocol.md`).

use sampan_replica::Input;

use super::{Call, integer};
use crate::backups::too_many;

/// `BACKUP BEGIN | READ id offset | DAMAGED id | END id`
pub(super) fn backup(call: &mut Call<'_>) {
    let name = call.arg(1).to_ascii_lowercase();
    match name.as_slice() {
        b"begin" => {
            if call.check_count("backup|begin", 2..=2) {
                begin(call);
            }
        }
        b"read" => {
            if call.check_count("backup|read", 4..=4) {
                read(call);
            }
        }
        b"damaged" => {
            if call.check_count("backup|damaged", 3..=3) {
                damaged(call);
            }
        }
        b"end" => {
            if call.check_count("backup|end", 3..=3) {
                let ended = id(call.arg(2)).is_some_and(|id| call.node.backups.end(id));
                call.reply().integer(ended.into());
            }
        }
        b"help" => call.help(&[
            "BACKUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "BEGIN",
            "    Wait for a snapshot of everything acknowledged so far; id, index, term, bytes.",
            "READ <id> <offset>",
            "    Return bytes of its file from an offset on, none at its end.",
            "DAMAGED <id>",
            "    Say that its bytes do not verify; 1 if this node gave the file up, 0 if it read sound.",
            "END <id>",
            "    Let go of it.",
            "HELP",
            "    Print this help.",
        ]),
        _ => call.unknown_subcommand("BACKUP"),
    }
}

/// Answered by the replica, when there is a snapshot.
fn begin(call: &mut Call<'_>) {
    if call.node.backups.len() >= call.node.config.limits.backups_max {
        return call.state(&too_many(call.node));
    }
    let (connection, seq) = (call.client.id, call.expect());
    call.node.inbox.push(Input::Backup { connection, seq });
}

/// Answered when the disk has been read; until then nothing more of this connection is.
fn read(call: &mut Call<'_>) {
    let offset = integer(call.arg(3)).and_then(|offset| u64::try_from(offset).ok());
    let Some(offset) = offset else {
        return call.error("ERR the offset is not a number of bytes");
    };
    let known = id(call.arg(2)).filter(|&id| call.node.backups.has(id));
    let Some(id) = known else {
        return no_backup(call);
    };
    let (whose, now) = ((call.client.id, call.expect()), call.node.coarse_time.get());
    let queued = call.node.backups.read(whose, id, offset, now);
    call.client.awaits_piece.set(queued);
}

/// Answered by the replica, when it has read the file itself.
fn damaged(call: &mut Call<'_>) {
    let snapshot = id(call.arg(2)).and_then(|id| call.node.backups.snapshot_of(id));
    let Some(snapshot) = snapshot else { return no_backup(call) };
    let (connection, seq) = (call.client.id, call.expect());
    call.node.inbox.push(Input::BackupDamaged { connection, seq, snapshot });
}

fn no_backup(call: &mut Call<'_>) {
    call.error(
        "NOBACKUP no such backup at this node: ended, not read for too long, or of an earlier start; \
         begin again",
    );
}

/// An id, as `BACKUP BEGIN` shows it.
fn id(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}
