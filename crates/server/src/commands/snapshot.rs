//! Commands that begin a snapshot, by their own name and by those that users of Redis try.
//!
//! None of them waits, and none is needed for durability: what is acknowledged is on the disks of a
//! quorum. A snapshot makes the log short, and it is taken by itself when that is worth it.

use sampan_replica::Input;

use super::Call;

/// `SAVE`: what it promises is so already, for what is acknowledged is on the disks of a quorum. A
/// snapshot begins as well, for whoever wants the log short.
pub(super) fn save(call: &mut Call<'_>) {
    call.node.inbox.push(Input::TakeSnapshot);
    call.ok();
}

/// `BGSAVE [SCHEDULE]`: a snapshot begins, if anything is new since the last one.
pub(super) fn bgsave(call: &mut Call<'_>) {
    let schedule = call.args.len() == 2 && call.is(1, "schedule");
    if call.args.len() > 1 && !schedule {
        return call.syntax_error();
    }
    let busy = call.node.replica.borrow().status().snapshot_in_progress;
    if busy && !schedule {
        return call.error("ERR Background save already in progress");
    }
    call.node.inbox.push(Input::TakeSnapshot);
    let text = if busy { "Background saving scheduled" } else { "Background saving started" };
    call.reply().simple(text);
}

/// `BGREWRITEAOF`: here a snapshot is what makes the log short.
pub(super) fn bgrewriteaof(call: &mut Call<'_>) {
    call.node.inbox.push(Input::TakeSnapshot);
    call.reply().simple("Background append only file rewriting started");
}

/// `SNAPSHOT NOW`: `+OK` means that it has begun, if anything is new since the last one; `LASTSAVE`
/// and `INFO persistence` show when it is done.
pub(super) fn snapshot(call: &mut Call<'_>) {
    if call.is(1, "now") {
        call.node.inbox.push(Input::TakeSnapshot);
        call.ok();
    } else {
        let name = call.shown(1);
        call.error(&format!("ERR unknown subcommand '{name}'. Try SNAPSHOT NOW."));
    }
}
