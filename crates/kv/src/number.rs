//! Decimal integers as Redis reads and writes them.

use std::io::Write;

/// Bytes of the longest decimal `i64`.
pub(crate) const DECIMAL_BYTES_MAX: usize = 20;

/// A signed 64-bit integer in its only accepted spelling: no sign but `-`, no leading zero, no
/// space, no `-0`.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        // 19 digits fit a u64.
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude = 0_u64;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(value);
    }
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Writes an integer into `buffer` and returns the part used.
pub(crate) fn format_i64(value: i64, buffer: &mut [u8; DECIMAL_BYTES_MAX]) -> &[u8] {
    let mut rest = &mut buffer[..];
    write!(rest, "{value}").expect("20 bytes hold every i64");
    let unused = rest.len();
    &buffer[..DECIMAL_BYTES_MAX - unused]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_an_integer() {
        let good = [0, 1, -1, 10, 42, -42, i64::MAX, i64::MIN, i64::MIN + 1];
        for value in good {
            assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
        }
        let bad = [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "a",
            "1a",
            "--1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "12345678901234567890123",
        ];
        for text in bad {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn integers_are_written_as_they_are_read() {
        for value in [0, 7, -7, 1234, i64::MAX, i64::MIN] {
            let mut buffer = [0; DECIMAL_BYTES_MAX];
            assert_eq!(format_i64(value, &mut buffer), value.to_string().as_bytes());
        }
    }
}
