//! `sampan server`: one node. Gathers its settings (flag, else environment, else file, else
//! default), and runs it.
//!
//! A key of the file is the name of a flag, and its value is read as that flag's value is: one
//! parser, one set of error messages. So what the file says is added to the command line, unless it
//! is there already or in the environment, and the whole is parsed again.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use sampan_base::{ClusterId, NodeId};
use sampan_server::{Config, HostPort, ServerError};

use crate::exit::{self, Ended, Failure};
use crate::settings::{Identity, Settings, with_flags};
use crate::{supervision, terminal};

/// Nodes of one machine hear of one another at once, so they need not wait as long as nodes
/// anywhere before an election. Measured as the shortest without false ones, with a margin
/// (`docs/operations.md`).
const LOCAL_ELECTION_TIMEOUT: Duration = Duration::from_millis(150);

/// What follows the flags in `sampan server --help`.
const AFTER_HELP: &str = "\
Each setting can be given as a flag, as an environment variable (SAMPAN_ and the flag's name, as in
SAMPAN_NODE_ID), or as a key of the --config file; in this order of precedence.

Exit codes: 0 stopped by SIGTERM or SIGINT after handing leadership over; 1 out of threads, memory or
file descriptors; 2 bad configuration; 3 an address is in use; 4 the data belong to another cluster or
node, or to one of other members; 5 data damaged, or written by a newer version; 6 disk failed or full;
7 the data directory is in use by another process; 8 broken invariant.
docs/operations.md says what to do about each.";

/// Runs one node of a cluster
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    settings: Settings,
    /// Stop, as at SIGTERM, when standard input ends: for a supervisor that must not be outlived
    #[arg(long)]
    stop_on_stdin_eof: bool,
    /// All nodes are on this machine: another default for the election timeout
    #[arg(long, hide = true)]
    local: bool,
}

/// The command with the defaults of all settings in its help.
pub(crate) fn with_help(command: Command) -> Command {
    let listen = HostPort::new("127.0.0.1", 7001);
    let config = Config::new(ClusterId(0), NodeId::of(1), listen, "data")
        .expect("the default port leaves room for the peer port");
    let command = command.after_help(AFTER_HELP);
    let command = command.mut_arg("on_damage", |arg| arg.value_name("repair|rejoin|refuse"));
    Settings::defaults(&config).into_iter().fold(command, |command, (name, default)| {
        command.mut_arg(name, |arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if help.contains("[default") {
                return arg;
            }
            arg.help(format!("{help} [default: {default}]"))
        })
    })
}

/// Runs a node until it is stopped or cannot go on. `matches` is what was parsed for `server`;
/// `root` and `argv` are what it was parsed by and from.
pub(crate) fn run(matches: &ArgMatches, root: &Command, argv: &[OsString]) -> Ended {
    // Before anything is missed: it may be what one of them was to set.
    for warning in unknown_variables(root, std::env::vars_os().map(|(name, _)| name)) {
        terminal::complain(warning);
    }
    let (config, stop_on_stdin_eof) = configure(matches, root, argv)?;
    if stop_on_stdin_eof {
        supervision::stop_when_stdin_ends().map_err(|error| exit::cannot_start(&error))?;
    }
    match sampan_server::run(config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ServerError::Config(error)) => {
            let error = ServerError::Config(error.renamed(with_flags));
            Err(Failure::new(error.exit_code(), error.to_string()))
        }
        Err(error) => Err(Failure::new(error.exit_code(), error.to_string())),
    }
}

/// All layers together.
fn configure(
    matches: &ArgMatches,
    root: &Command,
    argv: &[OsString],
) -> Result<(Config, bool), Failure> {
    let args = match matches.get_one::<std::path::PathBuf>("config") {
        None => from_matches(matches)?,
        Some(path) => {
            let mut argv = argv.to_vec();
            argv.extend(flags_of_file(path, matches, root)?);
            let matches = root.clone().try_get_matches_from(argv).map_err(|error| {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let first = first.strip_prefix("error: ").unwrap_or(first);
                Failure::usage(format!("{}: {first}", path.display()))
            })?;
            let (_, matches) = matches.subcommand().expect("the same command as before");
            from_matches(matches)?
        }
    };
    let mut config = args.identity.into_config()?;
    if args.local {
        args.settings.default_election_timeout(LOCAL_ELECTION_TIMEOUT, &mut config);
    }
    args.settings.apply(&mut config)?;
    Ok((config, args.stop_on_stdin_eof))
}

fn from_matches(matches: &ArgMatches) -> Result<ServerArgs, Failure> {
    ServerArgs::from_arg_matches(matches).map_err(|error| Failure::usage(error.to_string()))
}

/// The settings of a file as flags, without those that a flag or the environment has given.
fn flags_of_file(
    path: &Path,
    matches: &ArgMatches,
    root: &Command,
) -> Result<Vec<OsString>, Failure> {
    let fault = |text: String| Failure::usage(format!("{}: {text}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        fault(error.to_string().trim_end().replace('\n', "\n  "))
    })?;
    let server = root.find_subcommand("server").expect("this very command");
    let mut flags = Vec::new();
    for (key, value) in &table {
        let known = |arg: &&clap::Arg| arg.get_long() == Some(key) && takes_a_value(arg);
        let arg = server.get_arguments().find(known);
        let arg = arg.ok_or_else(|| fault(unknown_key(key, server)))?;
        let given = matches.value_source(arg.get_id().as_str());
        if matches!(given, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        for value in texts(value).ok_or_else(|| {
            fault(format!("{key}: want a string or an integer, or a list of strings for peer"))
        })? {
            flags.push(format!("--{key}={value}").into());
        }
    }
    Ok(flags)
}

/// May a file set it?
fn takes_a_value(arg: &clap::Arg) -> bool {
    arg.get_action().takes_values() && arg.get_id() != "config"
}

fn unknown_key(key: &str, server: &Command) -> String {
    let near = nearest(key, server).join(", ");
    format!("unknown setting '{key}': want the name of a flag of `sampan server`, such as {near}")
}

/// The flags that share the most words with a name that is none; any, if none shares one.
fn nearest<'a>(name: &str, server: &'a Command) -> Vec<&'a str> {
    let words: Vec<&str> = name.split(['-', '_']).collect();
    let shared = |name: &str| name.split('-').filter(|word| words.contains(word)).count();
    let names =
        server.get_arguments().filter(|arg| takes_a_value(arg)).filter_map(|a| a.get_long());
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|name| std::cmp::Reverse(shared(name)));
    names.truncate(3);
    names
}

/// A warning for each variable of the environment that looks like a setting and is none: a mistyped
/// one would otherwise leave a node with a default that nobody meant. A node starts all the same,
/// for such names come from elsewhere, too; those that Kubernetes makes of services are passed
/// over.
fn unknown_variables(root: &Command, names: impl Iterator<Item = OsString>) -> Vec<String> {
    let server = root.find_subcommand("server").expect("this very command");
    let known: Vec<_> = std::iter::once(root)
        .chain(root.get_subcommands())
        .flat_map(Command::get_arguments)
        .filter_map(clap::Arg::get_env)
        .collect();
    let is_of_service = |name: &str| {
        let marks = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
        name.ends_with("_PORT") || marks.iter().any(|mark| name.contains(mark))
    };
    let mut unknown: Vec<String> = names
        .filter(|name| !known.contains(&name.as_os_str()))
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("SAMPAN_") && !is_of_service(name))
        .collect();
    unknown.sort_unstable();
    let warning = |name: &String| {
        let near: Vec<String> = nearest(&name.to_lowercase(), server)
            .iter()
            .map(|flag| format!("SAMPAN_{}", flag.replace('-', "_").to_uppercase()))
            .collect();
        let near = near.join(", ");
        format!("warning: {name} is no setting, and ignored: want one such as {near}")
    };
    unknown.iter().map(warning).collect()
}

/// The texts a value stands for.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
