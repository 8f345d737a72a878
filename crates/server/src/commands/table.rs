//! The commands of this crate by name, and what `COMMAND` says of them.

use super::{Call, backup, client, cluster, command, config, connection, info, snapshot};

/// One command.
pub(crate) struct Command {
    /// In lower case.
    pub(super) name: &'static str,
    /// The number of arguments, name included; negative: at least that many.
    pub(super) arity: i64,
    /// Without `+`.
    pub(super) flags: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    pub(super) handler: fn(&mut Call<'_>),
}

impl Command {
    pub(super) fn arity_allows(&self, count: usize) -> bool {
        match usize::try_from(self.arity) {
            Ok(exact) => count == exact,
            Err(_) => count as u64 >= self.arity.unsigned_abs(),
        }
    }

    /// Does it tell what state the node is in, or keep that? Then what its connection wrote before
    /// comes first.
    pub(crate) fn is_of_state(&self) -> bool {
        const NAMES: [&str; 9] = [
            "info",
            "lastsave",
            "role",
            "cluster",
            "backup",
            "save",
            "bgsave",
            "bgrewriteaof",
            "snapshot",
        ];
        NAMES.contains(&self.name)
    }
}

/// No name is longer.
const NAME_BYTES_MAX: usize = 12;

macro_rules! commands {
    ($($id:ident $name:literal $arity:literal [$($flag:literal)*] [$($category:literal)*]
        $handler:path;)*) => {
        enum Place { $($id),* }

        /// All of them.
        pub(super) static COMMANDS: &[Command] = &[$(Command {
            name: $name,
            arity: $arity,
            flags: &[$($flag),*],
            categories: &[$($category),*],
            handler: $handler,
        }),*];

        fn place(lower: &str) -> Option<Place> {
            match lower {
                $($name => Some(Place::$id),)*
                _ => None,
            }
        }
    };
}

commands! {
    Ping      "ping"      -1 ["fast"] ["@fast" "@connection"] connection::ping;
    Echo      "echo"       2 ["loading" "stale" "fast"] ["@fast" "@connection"] connection::echo;
    Hello     "hello"     -1 ["noscript" "loading" "stale" "fast" "no_auth"] ["@fast" "@connection"] connection::hello;
    Auth      "auth"      -2 ["noscript" "loading" "stale" "fast" "no_auth"] ["@fast" "@connection"] connection::auth;
    Select    "select"     2 ["loading" "stale" "fast"] ["@fast" "@connection"] connection::select;
    Quit      "quit"      -1 ["noscript" "loading" "stale" "fast" "no_auth"] ["@fast" "@connection"] connection::quit;
    Reset     "reset"      1 ["noscript" "loading" "stale" "fast" "no_auth"] ["@fast" "@connection"] connection::reset;
    ReadOnly  "readonly"   1 ["loading" "stale" "fast"] ["@fast" "@connection"] connection::readonly;
    ReadWrite "readwrite"  1 ["loading" "stale" "fast"] ["@fast" "@connection"] connection::readwrite;
    Client    "client"    -2 ["noscript" "loading" "stale"] ["@slow" "@connection"] client::client;
    Command   "command"   -1 ["loading" "stale"] ["@slow" "@connection"] command::command;
    Config    "config"    -2 ["admin" "noscript" "loading" "stale"] ["@admin" "@slow" "@dangerous"] config::config;
    Info      "info"      -1 ["loading" "stale"] ["@slow" "@dangerous"] info::info;
    Time      "time"       1 ["loading" "stale" "fast"] ["@fast"] info::time;
    LastSave  "lastsave"   1 ["loading" "stale" "fast"] ["@admin" "@fast" "@dangerous"] info::lastsave;
    Role      "role"       1 ["noscript" "loading" "stale" "fast"] ["@admin" "@fast" "@dangerous"] info::role;
    Cluster   "cluster"   -2 ["admin" "stale"] ["@slow"] cluster::cluster;
    Backup    "backup"    -2 ["admin" "noscript"] ["@admin" "@slow" "@dangerous"] backup::backup;
    Save      "save"       1 ["admin" "noscript"] ["@admin" "@slow" "@dangerous"] snapshot::save;
    BgSave    "bgsave"    -1 ["admin" "noscript"] ["@admin" "@slow" "@dangerous"] snapshot::bgsave;
    Rewrite   "bgrewriteaof" 1 ["admin" "noscript"] ["@admin" "@slow" "@dangerous"] snapshot::bgrewriteaof;
    Snapshot  "snapshot"   2 ["admin" "noscript"] ["@admin" "@slow"] snapshot::snapshot;
}

/// The command of this name, in any case. A match and not a search: it is on the way of every
/// command, and most are not here.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    COMMANDS.get(place(std::str::from_utf8(lower).ok()?)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_found_by_its_name_in_any_case_and_no_data_command_is_hidden() {
        for command in COMMANDS {
            assert!(command.name.len() <= NAME_BYTES_MAX, "{}", command.name);
            for name in [command.name.to_owned(), command.name.to_uppercase()] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(command.name));
            }
        }
        let of_state = COMMANDS.iter().filter(|command| command.is_of_state());
        assert_eq!(of_state.count(), 9);
        for spec in sampan_kv::SPECS {
            assert!(find(spec.name.as_bytes()).is_none(), "{} is both", spec.name);
        }
        for name in [&b""[..], b"pin", b"pingg", b"\xff", &[b'a'; 100]] {
            assert!(find(name).is_none(), "{name:?}");
        }
    }
}
