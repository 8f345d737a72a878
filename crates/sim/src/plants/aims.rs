//! Plans bent towards where a bug lives: smaller clusters, shorter terms, more of the faults that
//! matter and none of the others. What a seed decides besides stays as it is.

use std::time::Duration;

use crate::faults::{Fault, FaultSet};
use crate::node::DiskProfile;
use crate::swarm::Plan;

/// Only these faults, one every so many milliseconds on average.
fn only(plan: &mut Plan, faults: &[Fault], every_ms: u64) {
    plan.faults = FaultSet::of(faults);
    plan.faults.insert(Fault::Retry);
    plan.fault_every_us = every_ms * 1_000;
    let rates = &mut plan.rates;
    (rates.drop, rates.duplicate, rates.corrupt, rates.delay) = (0, 0, 0, 0);
}

/// Short terms, and neither pre-votes nor check-quorum to spare the cluster elections.
fn short_terms(plan: &mut Plan) {
    let raft = &mut plan.options.raft;
    raft.election_timeout_min = Duration::from_millis(150);
    raft.election_timeout_max = Duration::from_millis(300);
    raft.heartbeat_interval = Duration::from_millis(50);
    (raft.pre_vote, raft.check_quorum) = (false, false);
}

/// Small segments and snapshots at every turn, one of them kept.
fn small_log(plan: &mut Plan) {
    let options = &mut plan.options;
    options.storage.segment_bytes = 16 << 10;
    options.storage.snapshots_kept = 1;
    options.raft_state_bytes_max = Some(4 << 10);
    options.raft_state_snapshot_percent = 0;
}

fn slow_disk(plan: &mut Plan) {
    plan.disk = DiskProfile { page_us: 20, sync_us: (2_000, 20_000) };
}

/// Leaders that come and go, each with a log that the next one cuts.
pub(super) fn unrest(plan: &mut Plan) {
    only(plan, &[Fault::Partition, Fault::OneWayCut, Fault::Kill, Fault::Pause], 700);
    short_terms(plan);
    slow_disk(plan);
    plan.nodes = 3 + plan.seed % 2 * 2;
    plan.options.raft.append_entries_max = 1;
}

/// The same where nodes hold little of what they forward to leaders that are gone.
pub(super) fn given_up(plan: &mut Plan) {
    unrest(plan);
    plan.options.requests_held_bytes_max = 512;
}

/// As `unrest`, in a large cluster where every message may arrive twice.
pub(super) fn duplicates(plan: &mut Plan) {
    unrest(plan);
    plan.nodes = 7;
    plan.rates.duplicate = 500;
}

/// Nodes that come back with a newer term to a cluster that has a leader.
pub(super) fn stale_terms(plan: &mut Plan) {
    unrest(plan);
    plan.options.raft.check_quorum = true;
}

/// Processes and machines that die in the middle of what their disks are doing.
pub(super) fn crashes(plan: &mut Plan) {
    only(plan, &[Fault::Kill, Fault::PowerCut, Fault::ClusterPowerCut, Fault::Snapshot], 300);
    short_terms(plan);
    small_log(plan);
    slow_disk(plan);
}

/// Members that come and go while leaders do.
pub(super) fn churn(plan: &mut Plan) {
    only(plan, &[Fault::Membership, Fault::Partition, Fault::Kill, Fault::Snapshot], 400);
    short_terms(plan);
    plan.nodes = plan.nodes.clamp(3, 5);
    plan.hasty_operator = true;
}

/// A deposed leader that does not know it, and clients that stay with it.
pub(super) fn split(plan: &mut Plan) {
    only(plan, &[Fault::Partition], 1_000);
    short_terms(plan);
    plan.nodes = 3;
    plan.mix.reads = 500;
    plan.mix.keys = 1;
    for client in &mut plan.clients {
        (client.session, client.loyal) = (false, true);
    }
}

/// Clients that do not take their replies, of nodes that are cut off.
pub(super) fn untaken(plan: &mut Plan) {
    split(plan);
    only(plan, &[Fault::Untaken, Fault::Partition], 400);
    plan.output_pause_bytes = 1;
    plan.options.reply_bytes_per_turn = 1;
}

/// Many reads, and messages that arrive late and twice.
pub(super) fn late_and_twice(plan: &mut Plan) {
    only(plan, &[Fault::Snapshot], 1_000);
    plan.nodes = 3;
    (plan.mix.reads, plan.operation_every_us) = (800, 5_000);
    (plan.rates.duplicate, plan.rates.delay, plan.rates.delay_us_max) = (500, 200, 100_000);
    plan.rates.reorder = true;
    for client in &mut plan.clients {
        (client.session, client.window, client.loyal) = (false, 8, true);
    }
}

/// Pipelines of reads behind writes, each answered in a message of its own, many of which are lost.
pub(super) fn lost_answers(plan: &mut Plan) {
    only(plan, &[Fault::Untaken], 200);
    plan.rates.drop = 100;
    plan.nodes = 3;
    plan.output_pause_bytes = 1;
    plan.options.reply_bytes_per_turn = 1;
}

/// Disks that do not hold what was stored, under a cluster that often elects.
pub(super) fn rot(plan: &mut Plan) {
    only(plan, &[Fault::BitFlip, Fault::BadSector, Fault::Transfer, Fault::Snapshot], 300);
    small_log(plan);
    plan.nodes = 5;
}

/// The same for nodes that vote again and again and get nowhere.
pub(super) fn rotten_votes(plan: &mut Plan) {
    only(plan, &[Fault::BitFlip, Fault::Partition, Fault::Kill], 300);
    short_terms(plan);
    plan.nodes = 5;
}

/// Voters whose disks are emptied, under a cluster that often elects.
pub(super) fn wipes(plan: &mut Plan) {
    only(plan, &[Fault::Wiped, Fault::Kill, Fault::Partition], 300);
    short_terms(plan);
    plan.nodes = 3;
}

/// Followers that need snapshots, and leaders' snapshots that arrive late and twice.
pub(super) fn installs(plan: &mut Plan) {
    only(plan, &[Fault::Kill, Fault::Partition, Fault::Snapshot], 500);
    small_log(plan);
    plan.nodes = 3;
    (plan.rates.duplicate, plan.rates.delay, plan.rates.delay_us_max) = (200, 50, 1_000_000);
}

/// Frames between nodes that arrive late and twice, in the next life of a node too.
pub(super) fn forwards(plan: &mut Plan) {
    only(plan, &[Fault::PowerCut, Fault::Kill], 400);
    short_terms(plan);
    plan.nodes = 3;
    (plan.rates.duplicate, plan.rates.delay, plan.rates.delay_us_max) = (400, 200, 1_500_000);
    plan.rates.reorder = true;
    for client in &mut plan.clients {
        client.session = false;
    }
}
