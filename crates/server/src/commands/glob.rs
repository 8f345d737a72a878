//! Patterns as Redis has them: `*`, `?`, `[a-c]`, `[^x]`, `\`. In time linear in the text for each
//! star, without recursion.

/// Does the pattern match all of the text, letters in any case?
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the last star: where the pattern goes on, and how much of the text the star has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(_) => {
                let (is_match, width) = match_one(&pattern[p..], text[t]);
                if is_match {
                    (p, t) = (p + width, t + 1);
                    continue;
                }
            }
            None => {}
        }
        let Some((after, taken)) = star else { return false };
        (p, t) = (after, taken + 1);
        star = Some((after, taken + 1));
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Does the first element of the pattern match the byte, and how long is it?
fn match_one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (same(*escaped, byte), 2),
        [b'[', ..] => match_class(pattern, byte),
        [literal, ..] => (same(*literal, byte), 1),
        [] => (false, 0),
    }
}

fn match_class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let is_negated = pattern.get(1) == Some(&b'^');
    let mut at = if is_negated { 2 } else { 1 };
    let mut found = false;
    let byte = byte.to_ascii_lowercase();
    // A class that does not close ends with the pattern.
    while let Some(&low) = pattern.get(at)
        && low != b']'
    {
        let (low, high) = match pattern[at..] {
            [b'\\', escaped, ..] => {
                at += 2;
                (escaped, escaped)
            }
            [low, b'-', high, ..] if high != b']' => {
                at += 3;
                (low.min(high), low.max(high))
            }
            _ => {
                at += 1;
                (low, low)
            }
        };
        found |= (low.to_ascii_lowercase()..=high.to_ascii_lowercase()).contains(&byte);
    }
    (found != is_negated, (at + 1).min(pattern.len()))
}

const fn same(a: u8, b: u8) -> bool {
    a.eq_ignore_ascii_case(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "maxmemory"),
            ("max*", "maxmemory"),
            ("*mem*", "maxmemory"),
            ("MAX?emory", "maxmemory"),
            ("m[a-c]x", "max"),
            ("m[^b]x", "max"),
            ("a\\*b", "a*b"),
            ("a*b*c", "aXbYbZc"),
            ("[a", "a"),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", ""), ("max", "maxmemory"), ("m[^a]x", "max"), ("a\\*b", "axb")]
        {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5_000).as_bytes()));
    }
}
