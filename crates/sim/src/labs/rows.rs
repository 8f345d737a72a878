//! All rows: what each is called, its cluster, its script.

use std::pin::Pin;

use super::generic::{Load, generic};
use super::lab::{Lab, Outcome, Setup};
use super::suite_2d::Harm;
use super::suite_3a::Stage;
use super::suite_3b::RAFT_STATE_BYTES_MAX;
use super::{difficulties, suite_2a, suite_2b, suite_2c, suite_2d, suite_3a, suite_3b};

/// A script of one row, under way.
type Script = Pin<Box<dyn Future<Output = Outcome>>>;

/// One row.
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) test: &'static str,
    pub(crate) setup: Setup,
    pub(crate) script: Box<dyn Fn(Lab, Setup) -> Script + Send + Sync>,
}

/// The names of all suites, in order; the last is that of the ten difficulties.
pub const SUITES: [&str; 7] = ["2A", "2B", "2C", "2D", "3A", "3B", "difficulties"];

fn row<F>(
    suite: &'static str,
    test: &'static str,
    setup: Setup,
    script: impl Fn(Lab, Setup) -> F + Send + Sync + 'static,
) -> Row
where
    F: Future<Output = Outcome> + 'static,
{
    let script = move |lab, setup| -> Script { Box::pin(script(lab, setup)) };
    Row { suite, test, setup, script: Box::new(script) }
}

fn generic_row(suite: &'static str, test: &'static str, setup: Setup, load: Load) -> Row {
    row(suite, test, setup, move |lab, setup| generic(lab, setup, load))
}

/// All rows, in the order of the course.
pub(crate) fn all() -> Vec<Row> {
    let suites = [rows_2a(), rows_2b(), rows_2c(), rows_2d(), rows_3a(), rows_3b()];
    suites.into_iter().flatten().chain(rows_of_difficulties()).collect()
}

fn rows_2a() -> Vec<Row> {
    use suite_2a as s;
    let three = Setup::of(3);
    vec![
        row("2A", "initial election", three, |lab, _| s::initial_election(lab)),
        row("2A", "election after network failure", three, |lab, _| {
            s::election_after_network_failure(lab)
        }),
        row("2A", "multiple elections", Setup::of(7), |lab, _| s::multiple_elections(lab)),
    ]
}

fn rows_2b() -> Vec<Row> {
    use suite_2b as s;
    let (three, five) = (Setup::of(3), Setup::of(5));
    vec![
        row("2B", "basic agreement", three, |lab, _| s::basic_agreement(lab)),
        row("2B", "RPC byte count", three, |lab, _| s::rpc_byte_count(lab)),
        row("2B", "agreement despite follower disconnection", three, |lab, _| {
            s::follower_disconnection(lab)
        }),
        row("2B", "no agreement if too many followers disconnect", five, |lab, _| {
            s::no_agreement_without_majority(lab)
        }),
        row("2B", "concurrent Start()s", three, |lab, _| s::concurrent_starts(lab)),
        row("2B", "rejoin of partitioned leader", three, |lab, _| {
            s::rejoin_of_partitioned_leader(lab)
        }),
        row("2B", "leader backs up quickly over incorrect follower logs", five, |lab, _| {
            s::backs_up_quickly(lab)
        }),
        row("2B", "RPC counts aren't too high", three, |lab, _| s::rpc_counts(lab)),
    ]
}

fn rows_2c() -> Vec<Row> {
    use suite_2c as s;
    let (three, five) = (Setup::of(3), Setup::of(5));
    let unreliable = five.unreliable();
    vec![
        row("2C", "basic persistence", three, |lab, _| s::basic_persistence(lab)),
        row("2C", "more persistence", five, |lab, _| s::more_persistence(lab)),
        row("2C", "partitioned leader and one follower crash, leader restarts", three, |lab, _| {
            s::partitioned_leader_restarts(lab)
        }),
        row("2C", "Figure 8", five, |lab, _| s::figure_8(lab)),
        row("2C", "unreliable agreement", unreliable, |lab, _| s::unreliable_agreement(lab)),
        row("2C", "Figure 8 (unreliable)", unreliable, |lab, _| s::figure_8_unreliable(lab)),
        row("2C", "churn", five, |lab, _| s::churn(lab)),
        row("2C", "unreliable churn", unreliable, |lab, _| s::churn(lab)),
    ]
}

fn rows_2d() -> Vec<Row> {
    let reliable = Setup::of(3);
    let unreliable = reliable.unreliable();
    let snapshots =
        |test, setup, harm| row("2D", test, setup, move |lab, _| suite_2d::snapshots(lab, harm));
    vec![
        snapshots("snapshots basic", reliable, Harm::None),
        snapshots("install snapshots (disconnect)", reliable, Harm::Cut),
        snapshots("install snapshots (disconnect+unreliable)", unreliable, Harm::Cut),
        snapshots("install snapshots (crash)", reliable, Harm::Crash),
        snapshots("install snapshots (unreliable+crash)", unreliable, Harm::Crash),
    ]
}

fn rows_3a() -> Vec<Row> {
    use suite_3a::{concurrent_append, one_partition, speed};
    let of = |servers| Setup::of(servers).serving();
    let (three, five, seven) = (of(3), of(5), of(7).unreliable());
    let bad = five.unreliable();
    let (one, many) = (Load::of(1), Load::of(5));
    let all_faults = many.crash().partitions();
    let random_keys = Load::of(15).crash().partitions().random_keys();
    vec![
        generic_row("3A", "one client", five, one),
        row("3A", "ops complete fast enough", three, speed),
        generic_row("3A", "many clients", five, many),
        generic_row("3A", "unreliable net, many clients", bad, many),
        row("3A", "concurrent append to same key, unreliable", three.unreliable(), |lab, _| {
            concurrent_append(lab)
        }),
        row("3A", "progress in majority", five, |lab, _| one_partition(lab, Stage::Majority)),
        row("3A", "no progress in minority", five, |lab, _| one_partition(lab, Stage::Minority)),
        row("3A", "completion after heal", five, |lab, _| one_partition(lab, Stage::Heal)),
        generic_row("3A", "partitions, one client", five, one.partitions()),
        generic_row("3A", "partitions, many clients", five, many.partitions()),
        generic_row("3A", "restarts, one client", five, one.crash()),
        generic_row("3A", "restarts, many clients", five, many.crash()),
        generic_row("3A", "unreliable net, restarts, many clients", bad, many.crash()),
        generic_row("3A", "restarts, partitions, many clients", five, all_faults),
        generic_row("3A", "unreliable net, restarts, partitions, many clients", bad, all_faults),
        generic_row(
            "3A",
            "unreliable net, restarts, partitions, random keys, many clients",
            seven,
            random_keys,
        ),
    ]
}

fn rows_3b() -> Vec<Row> {
    let of = |servers| Setup::of(servers).serving().max_raft_state(RAFT_STATE_BYTES_MAX);
    let (three, five, seven) = (of(3), of(5), of(7).unreliable());
    let (bad, many) = (five.unreliable(), Load::of(5));
    let all_faults = many.crash().partitions();
    let random_keys = Load::of(15).crash().partitions().random_keys();
    vec![
        row("3B", "InstallSnapshot RPC", three, suite_3b::install_snapshot),
        row("3B", "snapshot size is reasonable", three, suite_3b::snapshot_size),
        row("3B", "ops complete fast enough", three, suite_3a::speed),
        generic_row("3B", "restarts, snapshots, one client", five, Load::of(1).crash()),
        generic_row("3B", "restarts, snapshots, many clients", five, Load::of(20).crash()),
        generic_row("3B", "unreliable net, snapshots, many clients", bad, many),
        generic_row("3B", "unreliable net, restarts, snapshots, many clients", bad, many.crash()),
        generic_row(
            "3B",
            "unreliable net, restarts, partitions, snapshots, many clients",
            bad,
            all_faults,
        ),
        generic_row(
            "3B",
            "unreliable net, restarts, partitions, snapshots, random keys, many clients",
            seven,
            random_keys,
        ),
    ]
}

fn rows_of_difficulties() -> Vec<Row> {
    use difficulties as d;
    const SUITE: &str = "difficulties";
    let plain = Setup::of(3).serving();
    let (bad, snapshots) = (plain.unreliable(), plain.max_raft_state(d::STATE_BYTES_MAX));
    vec![
        row(SUITE, "1 a failed call is tried again", bad, |lab, _| d::failed_calls(lab)),
        row(SUITE, "2 a retried command is applied once", bad, |lab, _| d::retried_commands(lab)),
        row(SUITE, "3 a restored state is the state it was", plain, |lab, _| {
            d::restored_state(lab)
        }),
        row(SUITE, "4 receiving a snapshot blocks nothing", plain, |lab, _| d::busy_receiver(lab)),
        row(SUITE, "5 a log is trimmed to its snapshot", snapshots, |lab, _| d::trimmed_log(lab)),
        row(SUITE, "6 applied and commit go to the snapshot", snapshots, |lab, _| {
            d::installed_snapshot(lab)
        }),
        row(SUITE, "7 a restart begins at the snapshot", snapshots, |lab, _| {
            d::restart_at_snapshot(lab)
        }),
        row(SUITE, "8 a snapshot is taken at its size", plain, |lab, _| d::size_threshold(lab)),
        row(SUITE, "9 a failed snapshot loses nothing", plain, |lab, _| d::failed_snapshot(lab)),
        row(SUITE, "10 log, snapshot and state agree", snapshots.unreliable(), |lab, _| {
            d::agreement_after_restart(lab)
        }),
    ]
}
