//! Splits an inline command into arguments, with the quotes and escapes of Redis.
//!
//! `"..."` knows `\n \r \t \a \b \xHH` and a backslash before any other character; `'...'` knows
//! `\'` alone. A quote may open within a word and must close at its end.

use std::ops::Range;

/// A quote that does not close, or closes within a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnbalancedQuotes;

/// Appends the unescaped arguments of `line` (without its line end) to `text`, and where each lies
/// there to `args`.
pub(crate) fn split_arguments(
    line: &[u8],
    text: &mut Vec<u8>,
    args: &mut Vec<Range<usize>>,
) -> Result<(), UnbalancedQuotes> {
    let mut rest = line;
    loop {
        rest = skip_blanks(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let start = text.len();
        rest = take_argument(rest, text)?;
        args.push(start..text.len());
    }
}

fn skip_blanks(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    line.split_at(blanks).1
}

fn ends_argument(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn take_argument<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], UnbalancedQuotes> {
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'"' => return take_double_quoted(tail, text),
            b'\'' => return take_single_quoted(tail, text),
            byte if ends_argument(byte) => return Ok(rest),
            byte => {
                text.push(byte);
                tail
            }
        };
    }
    Ok(rest)
}

fn take_double_quoted<'a>(
    mut rest: &'a [u8],
    text: &mut Vec<u8>,
) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        let (byte, tail) = match rest {
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) << 4 | hex_digit(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [b'"', tail @ ..] => return close_quote(tail),
            [byte, tail @ ..] => (*byte, tail),
            [] => return Err(UnbalancedQuotes),
        };
        text.push(byte);
        rest = tail;
    }
}

fn take_single_quoted<'a>(
    mut rest: &'a [u8],
    text: &mut Vec<u8>,
) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        let (byte, tail) = match rest {
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [b'\'', tail @ ..] => return close_quote(tail),
            [byte, tail @ ..] => (*byte, tail),
            [] => return Err(UnbalancedQuotes),
        };
        text.push(byte);
        rest = tail;
    }
}

/// A closing quote is followed by a blank or by nothing.
fn close_quote(rest: &[u8]) -> Result<&[u8], UnbalancedQuotes> {
    match rest.first() {
        Some(byte) if !matches!(byte, b' ' | b'\t'..=b'\r') => Err(UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of a character known to be a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
        let (mut text, mut args) = (Vec::new(), Vec::new());
        split_arguments(line, &mut text, &mut args)?;
        Ok(args.into_iter().map(|range| text.get(range).unwrap().to_vec()).collect())
    }

    fn ok(line: &[u8], expected: &[&[u8]]) {
        assert_eq!(split(line).unwrap(), expected, "{}", line.escape_ascii());
    }

    #[test]
    fn words_are_split_at_blanks() {
        ok(b"", &[]);
        ok(b" \t\r ", &[]);
        ok(b"SET  k\tv ", &[b"SET", b"k", b"v"]);
        ok(b"a\x00b \xff", &[b"a\x00b", b"\xff"]);
    }

    #[test]
    fn double_quotes_know_the_escapes() {
        ok(br#"SET k "a b""#, &[b"SET", b"k", b"a b"]);
        ok(br#""\n\r\t\b\a\\\"\q""#, &[b"\n\r\t\x08\x07\\\"q"]);
        ok(br#""\x41\xfF\xZZ""#, &[b"A\xffxZZ"]);
        ok(br#""""#, &[b""]);
        ok(br#"pre"fix""#, &[b"prefix"]);
    }

    #[test]
    fn single_quotes_know_only_their_own_escape() {
        ok(br"'a b'", &[b"a b"]);
        ok(br"'it\'s \n'", &[br"it's \n"]);
        ok(b"''", &[b""]);
    }

    #[test]
    fn quotes_that_do_not_balance_are_refused() {
        for line in [&b"\"abc"[..], b"'abc", b"\"a\"b", b"'a'b", b"\"a\\", b"'", b"\"a\"\"b\""] {
            assert_eq!(split(line), Err(UnbalancedQuotes), "{}", line.escape_ascii());
        }
    }
}
