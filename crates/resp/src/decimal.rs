//! Decimal integers: written without allocation, and the lengths of the protocol read strictly.

/// The most digits a length may have. Longer ones are beyond every limit, so no length line is
/// longer than sign, digits, CR and LF.
const LENGTH_DIGITS_MAX: usize = 10;

/// Bytes of `-9223372036854775808`.
const INTEGER_BYTES_MAX: usize = 20;

/// Appends `value` in decimal.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0_u8; INTEGER_BYTES_MAX];
    let mut rest = value.unsigned_abs();
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.split_at(INTEGER_BYTES_MAX - used).1);
}

/// Appends `marker`, `value` and CRLF: the header of a bulk, an aggregate, or a whole integer.
pub(crate) fn write_line(out: &mut Vec<u8>, marker: u8, value: i64) {
    if let digit @ 0..=9 = value {
        out.extend_from_slice(&[marker, b'0' + digit as u8, b'\r', b'\n']);
        return;
    }
    out.push(marker);
    write_integer(out, value);
    out.extend_from_slice(b"\r\n");
}

/// A length and how many bytes its line took, CRLF included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Length {
    pub(crate) value: i64,
    pub(crate) line_bytes: usize,
}

/// Not a length: another character, a leading zero, `-0`, too many digits, or no LF after CR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadLength;

/// Reads `[-]digits CR LF` at the start of `bytes`; `None` while the line is not complete.
/// Judged at the first wrong byte, so that nobody waits for the end of nonsense.
pub(crate) fn read_length(bytes: &[u8]) -> Result<Option<Length>, BadLength> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    let mut value = 0_i64;
    for (count, &byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            let leading_zero = count > 0 && value == 0;
            if leading_zero || count == LENGTH_DIGITS_MAX {
                return Err(BadLength);
            }
            value = value * 10 + i64::from(digit);
            continue;
        }
        if byte != b'\r' || count == 0 || (negative && value == 0) {
            return Err(BadLength);
        }
        return match digits.get(count + 1) {
            None => Ok(None),
            Some(b'\n') => {
                let line_bytes = usize::from(negative) + count + 2;
                Ok(Some(Length { value: if negative { -value } else { value }, line_bytes }))
            }
            Some(_) => Err(BadLength),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_written_as_the_standard_library_writes_them() {
        let edges = [0, 9, 10, 99, 100, -1, -10, 12_345, i64::MAX, i64::MIN];
        for value in edges {
            let mut out = Vec::new();
            write_integer(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
            out.clear();
            write_line(&mut out, b':', value);
            assert_eq!(out, format!(":{value}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_length_is_read_with_its_line() {
        let read = |text: &str| read_length(text.as_bytes());
        assert_eq!(read("0\r\n"), Ok(Some(Length { value: 0, line_bytes: 3 })));
        assert_eq!(read("-1\r\nrest"), Ok(Some(Length { value: -1, line_bytes: 4 })));
        assert_eq!(read("1024\r\n"), Ok(Some(Length { value: 1024, line_bytes: 6 })));
        assert_eq!(
            read("9999999999\r\n"),
            Ok(Some(Length { value: 9_999_999_999, line_bytes: 12 }))
        );
        for partial in ["", "-", "1", "12\r", "9999999999"] {
            assert_eq!(read(partial), Ok(None), "{partial:?}");
        }
    }

    #[test]
    fn what_is_not_a_length_is_refused_at_its_first_wrong_byte() {
        for wrong in
            ["\r", "a", "+1", "01", "00", "-0\r", "--", "1\n", "1\rx", "1 ", "10000000000", "-\r"]
        {
            assert_eq!(read_length(wrong.as_bytes()), Err(BadLength), "{wrong:?}");
        }
    }
}
