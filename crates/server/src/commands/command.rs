//! `COMMAND`: what this server understands, its own commands and those of the state machine alike.

use sampan_resp::Writer;

use super::table::COMMANDS;
use super::{Call, find, glob};

/// `COMMAND [COUNT|DOCS|GETKEYS|HELP|INFO|LIST ...]`
pub(super) fn command(call: &mut Call<'_>) {
    let name = call.arg(1).to_ascii_lowercase();
    match name.as_slice() {
        b"" if call.args.len() == 1 => all(call),
        b"count" => {
            if call.check_count("command|count", 2..=2) {
                let count = rows().count() as i64;
                call.reply().integer(count);
            }
        }
        // Clients take the absence of documentation well; the manual has it.
        b"docs" => call.reply().map(0),
        b"info" => info(call),
        b"list" => list(call),
        b"getkeys" => {
            if call.check_count("command|getkeys", 3..) {
                get_keys(call);
            }
        }
        b"help" => call.help(&[
            "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "(no subcommand)",
            "COUNT",
            "DOCS [<command-name> ...]",
            "GETKEYS <full-command>",
            "INFO [<command-name> ...]",
            "LIST [FILTERBY PATTERN <pattern>]",
            "HELP",
        ]),
        _ => call.unknown_subcommand("COMMAND"),
    }
}

/// One row of either table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    categories: &'static [&'static str],
    /// First key, last key, step; zeros where there are none.
    keys: [i64; 3],
}

fn rows() -> impl Iterator<Item = Row> {
    let own = COMMANDS.iter().map(|command| Row {
        name: command.name,
        arity: command.arity,
        flags: command.flags,
        categories: command.categories,
        keys: [0; 3],
    });
    own.chain(sampan_kv::SPECS.iter().map(row_of))
}

fn row_of(spec: &sampan_kv::Spec) -> Row {
    Row {
        name: spec.name,
        arity: spec.arity.into(),
        flags: spec.flags,
        categories: spec.categories,
        keys: [spec.first_key, spec.last_key, spec.step].map(i64::from),
    }
}

fn all(call: &mut Call<'_>) {
    let count = rows().count();
    let mut reply = call.reply();
    reply.array(count);
    rows().for_each(|row| write_row(&row, &mut reply));
}

fn info(call: &mut Call<'_>) {
    let Some(names) = call.args.get(2..).filter(|names| !names.is_empty()) else {
        return all(call);
    };
    let mut reply = call.reply();
    reply.array(names.len());
    for name in names {
        match rows().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name)) {
            Some(row) => write_row(&row, &mut reply),
            None => reply.nil_array(),
        }
    }
}

/// name, arity, flags, keys, categories, tips, key specifications, subcommands.
fn write_row(row: &Row, reply: &mut Writer<'_>) {
    reply.array(10);
    reply.bulk(row.name.as_bytes());
    reply.integer(row.arity);
    reply.set(row.flags.len());
    row.flags.iter().for_each(|flag| reply.simple(flag));
    row.keys.iter().for_each(|&key| reply.integer(key));
    reply.set(row.categories.len());
    row.categories.iter().for_each(|category| {
        let at = if category.starts_with('@') { "" } else { "@" };
        reply.simple(&format!("{at}{category}"));
    });
    for _ in 0..3 {
        reply.array(0);
    }
}

fn list(call: &mut Call<'_>) {
    let mut names: Vec<&str> = rows().map(|row| row.name).collect();
    if call.args.len() == 5 && call.is(2, "filterby") && call.is(3, "pattern") {
        if !call.check_patterns(&call.args[4..]) {
            return;
        }
        names.retain(|name| glob::matches(call.arg(4), name.as_bytes()));
    } else if call.args.len() > 2 {
        return call.syntax_error();
    }
    let mut reply = call.reply();
    reply.array(names.len());
    for name in names {
        reply.bulk(name.as_bytes());
    }
}

fn get_keys(call: &mut Call<'_>) {
    match keys_of(&call.args[2..]) {
        Ok(keys) => {
            let mut reply = call.reply();
            reply.array(keys.len());
            for key in keys {
                reply.bulk(key);
            }
        }
        Err(text) => call.error(text),
    }
}

/// The keys among a command's arguments.
fn keys_of<'a>(args: &[&'a [u8]]) -> Result<Vec<&'a [u8]>, &'static str> {
    const NO_KEYS: &str = "ERR The command has no key arguments";
    let Some(spec) = args.first().and_then(|name| sampan_kv::find(name)) else {
        let is_own = args.first().is_some_and(|name| find(name).is_some());
        return Err(if is_own { NO_KEYS } else { "ERR Invalid command specified" });
    };
    if !spec.arity_allows(args.len()) {
        return Err("ERR Invalid number of arguments specified for command");
    }
    if spec.name == "once" {
        // ONCE id seq [ACK n] command ...
        let inner = if args[3].eq_ignore_ascii_case(b"ack") { 5 } else { 3 };
        return match args.get(inner..) {
            Some(inner) if !inner.is_empty() => keys_of(inner),
            _ => Err("ERR Invalid number of arguments specified for command"),
        };
    }
    let (Ok(first @ 1..), Ok(step @ 1..)) =
        (usize::try_from(spec.first_key), usize::try_from(spec.step))
    else {
        return Err(NO_KEYS);
    };
    let last = match usize::try_from(spec.last_key) {
        Ok(last) => last,
        Err(_) => args.len() - spec.last_key.unsigned_abs() as usize,
    };
    Ok(args.iter().take(last + 1).skip(first).step_by(step).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(line: &str) -> Result<Vec<&str>, &'static str> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let keys = keys_of(&args)?;
        Ok(keys.into_iter().map(|key| std::str::from_utf8(key).unwrap()).collect())
    }

    #[test]
    fn keys_are_found_among_the_arguments() {
        assert_eq!(keys("get a"), Ok(vec!["a"]));
        assert_eq!(keys("MSET a 1 b 2"), Ok(vec!["a", "b"]));
        assert_eq!(keys("del a b c"), Ok(vec!["a", "b", "c"]));
        assert_eq!(keys("once 1 2 set k v"), Ok(vec!["k"]));
        assert_eq!(keys("once 1 2 ack 1 mset a 1 b 2"), Ok(vec!["a", "b"]));
    }

    #[test]
    fn what_has_no_keys_is_an_error() {
        assert_eq!(keys("dbsize"), Err("ERR The command has no key arguments"));
        assert_eq!(keys("ping"), Err("ERR The command has no key arguments"));
        assert_eq!(keys("nope"), Err("ERR Invalid command specified"));
        let arity = Err("ERR Invalid number of arguments specified for command");
        assert_eq!(keys("get"), arity);
        assert_eq!(keys("once 1 2 ack 1"), arity);
        assert_eq!(keys("once 1 2 get"), arity);
    }
}
