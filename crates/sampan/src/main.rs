//! `sampan`: the one program users install. A node, a local cluster, and a client of either.
//!
//! Here is what a command line, a configuration file, a process and a terminal need; what a node or
//! a client does is in `sampan-server` and `sampan-client`.
#![forbid(unsafe_code)]

mod backup;
mod bench;
mod clerk;
mod cluster;
mod exit;
mod inspect;
mod interrupt;
mod probe;
mod restore;
mod server;
mod settings;
mod status;
mod supervision;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clerk::Servers;

/// Memory that many small records come from and go back to: the system's allocator stops for up to
/// 200 ms when it tidies up after a large deletion.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What follows the list of commands in `sampan --help`.
const AFTER_HELP: &str = "\
Exit codes of get, set, append, del, incr, exists, ttl, expire and command:
  0 done; 1 no such key, or the condition was not met; 2 bad arguments;
  3 no node answered, certainly not applied; 4 outcome not known, may be applied;
  5 refused by the cluster, which changed nothing; 6 done, but the answer could not be written
Exit codes of backup, restore and inspect: 0 done; 1 interrupted (not inspect); 2 bad arguments, or something is there already;
  3 no node gave a backup; 5 damaged; 6 a file or object could not be read or written, or the result not be printed.
Exit codes of status: 0 all nodes are up and reach a leader; 1 one is down, knows none or cannot reach it,
  or two hold different states; 2 bad arguments; 3 none knows a leader; 6 the table could not be written.
For those of server and cluster see `sampan server --help`.";

/// Sampan: a replicated, linearizable, durable key/value store that speaks the Redis protocol
#[derive(Parser, Debug)]
#[command(name = "sampan", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Server(Box<server::ServerArgs>),
    Cluster(cluster::ClusterArgs),
    /// Prints role, term, commit, applied, lag, log and snapshot of every node
    Status,
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Inspect(inspect::InspectArgs),
    Bench(Box<bench::BenchArgs>),
    #[command(flatten)]
    Data(clerk::DataCommand),
}

/// All commands; those that talk to a cluster are told where it is.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| match command.get_name() {
        "server" => server::with_help(command),
        "cluster" | "restore" | "inspect" => command,
        _ => Servers::with_flags(command),
    })
}

fn main() -> ExitCode {
    // The allocator asks for none, but some systems give them to all: they are cleared 2 MiB at a
    // time, and of a state that changes they take more memory. Where the system does not know of
    // them there are none.
    _ = rustix::thread::disable_transparent_huge_pages(true);
    let argv: Vec<OsString> = std::env::args_os().collect();
    let root = command();
    let matches = root.clone().get_matches_from(&argv);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (_, matches) = matches.subcommand().expect("a command is required");
    let servers = || Servers::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    let ended = match &cli.command {
        Command::Server(_) => server::run(matches, &root, &argv),
        Command::Cluster(args) => cluster::run(args),
        Command::Status => status::run(&servers()),
        Command::Backup(args) => backup::run(&servers(), args),
        Command::Restore(args) => restore::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(&servers(), args),
        Command::Data(command) => clerk::run(&servers(), command),
    };
    ended.unwrap_or_else(|failure| {
        terminal::complain(format_args!("sampan: {failure}"));
        failure.code.into()
    })
}
