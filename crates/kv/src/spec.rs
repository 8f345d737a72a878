//! The table of commands: names, arities and what `COMMAND` tells clients about them.
//!
//! One row per name. [`find`] is on the way of every command, so it is a match and not a search.

/// What is known about one command before its arguments are read.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name in lower case.
    pub name: &'static str,
    /// The number of arguments, name included; negative: at least that many.
    pub arity: i32,
    /// The flags that `COMMAND` shows, without `+`.
    pub flags: &'static [&'static str],
    /// Place of the first key among the arguments; 0: no keys.
    pub first_key: i32,
    /// Place of the last key; negative counts from the end.
    pub last_key: i32,
    /// Distance from one key to the next.
    pub step: i32,
    /// The categories that `COMMAND` shows, without `+`.
    pub categories: &'static [&'static str],
    pub(crate) name_id: Name,
}

impl Spec {
    /// May a command have this many arguments, its name included?
    pub const fn arity_allows(&self, count: usize) -> bool {
        if self.arity >= 0 {
            count == self.arity as usize
        } else {
            count >= self.arity.unsigned_abs() as usize
        }
    }
}

/// No command name is longer.
const NAME_BYTES_MAX: usize = 16;

macro_rules! specs {
    ($($id:ident $name:literal $arity:literal [$($flag:literal)*] $first:literal $last:literal
        $step:literal [$($category:literal)*])*) => {
        /// The commands by name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Name { $($id),* }

        /// Every command that goes to the state machine, sessions included.
        pub static SPECS: &[Spec] = &[$(Spec {
            name: $name,
            arity: $arity,
            flags: &[$($flag),*],
            first_key: $first,
            last_key: $last,
            step: $step,
            categories: &[$($category),*],
            name_id: Name::$id,
        }),*];

        fn name_of(lower: &str) -> Option<Name> {
            match lower {
                $($name => Some(Name::$id),)*
                _ => None,
            }
        }
    };
}

specs! {
    Get         "get"          2 ["readonly" "fast"]          1  1 1 ["@read" "@string" "@fast"]
    Set         "set"         -3 ["write" "denyoom"]          1  1 1 ["@write" "@string" "@slow"]
    Append      "append"       3 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    GetRange    "getrange"     4 ["readonly"]                 1  1 1 ["@read" "@string" "@slow"]
    Substr      "substr"       4 ["readonly"]                 1  1 1 ["@read" "@string" "@slow"]
    SetRange    "setrange"     4 ["write" "denyoom"]          1  1 1 ["@write" "@string" "@slow"]
    Strlen      "strlen"       2 ["readonly" "fast"]          1  1 1 ["@read" "@string" "@fast"]
    Del         "del"         -2 ["write"]                    1 -1 1 ["@keyspace" "@write" "@slow"]
    Unlink      "unlink"      -2 ["write" "fast"]             1 -1 1 ["@keyspace" "@write" "@fast"]
    Exists      "exists"      -2 ["readonly" "fast"]          1 -1 1 ["@keyspace" "@read" "@fast"]
    Mget        "mget"        -2 ["readonly" "fast"]          1 -1 1 ["@read" "@string" "@fast"]
    Mset        "mset"        -3 ["write" "denyoom"]          1 -1 2 ["@write" "@string" "@slow"]
    Incr        "incr"         2 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    Decr        "decr"         2 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    IncrBy      "incrby"       3 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    DecrBy      "decrby"       3 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    GetDel      "getdel"       2 ["write" "fast"]             1  1 1 ["@write" "@string" "@fast"]
    GetSet      "getset"       3 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    SetNx       "setnx"        3 ["write" "denyoom" "fast"]   1  1 1 ["@write" "@string" "@fast"]
    SetEx       "setex"        4 ["write" "denyoom"]          1  1 1 ["@write" "@string" "@slow"]
    PsetEx      "psetex"       4 ["write" "denyoom"]          1  1 1 ["@write" "@string" "@slow"]
    DbSize      "dbsize"       1 ["readonly" "fast"]          0  0 0 ["@keyspace" "@read" "@fast"]
    FlushAll    "flushall"    -1 ["write"]                    0  0 0 ["@keyspace" "@write" "@slow" "@dangerous"]
    FlushDb     "flushdb"     -1 ["write"]                    0  0 0 ["@keyspace" "@write" "@slow" "@dangerous"]
    Expire      "expire"      -3 ["write" "fast"]             1  1 1 ["@keyspace" "@write" "@fast"]
    Pexpire     "pexpire"     -3 ["write" "fast"]             1  1 1 ["@keyspace" "@write" "@fast"]
    ExpireAt    "expireat"    -3 ["write" "fast"]             1  1 1 ["@keyspace" "@write" "@fast"]
    PexpireAt   "pexpireat"   -3 ["write" "fast"]             1  1 1 ["@keyspace" "@write" "@fast"]
    Ttl         "ttl"          2 ["readonly" "fast"]          1  1 1 ["@keyspace" "@read" "@fast"]
    Pttl        "pttl"         2 ["readonly" "fast"]          1  1 1 ["@keyspace" "@read" "@fast"]
    ExpireTime  "expiretime"   2 ["readonly" "fast"]          1  1 1 ["@keyspace" "@read" "@fast"]
    PexpireTime "pexpiretime"  2 ["readonly" "fast"]          1  1 1 ["@keyspace" "@read" "@fast"]
    Persist     "persist"      2 ["write" "fast"]             1  1 1 ["@keyspace" "@write" "@fast"]
    Type        "type"         2 ["readonly" "fast"]          1  1 1 ["@keyspace" "@read" "@fast"]
    Touch       "touch"       -2 ["readonly" "fast"]          1 -1 1 ["@keyspace" "@read" "@fast"]
    Session     "session"     -2 ["write"]                    0  0 0 ["@connection" "@write" "@slow"]
    Once        "once"        -4 ["write" "denyoom" "movablekeys"] 0 0 0 ["@connection" "@write" "@slow"]
    Outcome     "outcome"      3 ["readonly"]                 0  0 0 ["@connection" "@read" "@slow"]
}

/// The row of a command, whatever the case of its name.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0_u8; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let id = name_of(std::str::from_utf8(lower).ok()?)?;
    SPECS.get(id as usize)
}

/// Does this command go to the state machine (as against PING, INFO and their like)?
pub fn is_data_command(name: &[u8]) -> bool {
    find(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_by_its_name_in_any_case() {
        for spec in SPECS {
            let found = find(spec.name.as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
            assert_eq!(found.name_id, spec.name_id);
            assert!(is_data_command(spec.name.to_ascii_uppercase().as_bytes()));
            assert!(spec.name.len() <= NAME_BYTES_MAX);
        }
    }

    #[test]
    fn other_names_are_not_found() {
        for name in [&b""[..], b"ge", b"gett", b"\xff\xfe", b"ping", &[b'a'; 100]] {
            assert!(!is_data_command(name), "{name:?}");
        }
    }

    #[test]
    fn arity_counts_the_name_and_negative_means_at_least() {
        let (get, del) = (find(b"get").unwrap(), find(b"del").unwrap());
        assert_eq!([1, 2, 3].map(|n| get.arity_allows(n)), [false, true, false]);
        assert_eq!([1, 2, 3].map(|n| del.arity_allows(n)), [false, true, true]);
    }
}
