//! Lists of options written as text: JSON, a Python list, or NumPy's print form, which has no commas.

/// The strings of a list; `None` where the text is no list of them. Adjacent strings are two members, as NumPy prints
/// them, not one, as Python would read them.
pub fn list(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut out = Vec::new();
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => out.push(quoted(&mut chars, c)?),
            c if c.is_whitespace() || c == ',' => {}
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| *c != ',') {
                    word.push(c);
                }
                out.push(word.trim().to_owned());
            }
        }
    }
    Some(out)
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> Option<String> {
    let mut out = String::new();
    loop {
        match chars.next()? {
            c if c == quote => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'x' => out.push(char::from_u32(hex(chars, 2)?)?),
                'u' => out.push(wide(chars)?),
                'U' => out.push(char::from_u32(hex(chars, 8)?)?),
                c if matches!(c, '\\' | '\'' | '"' | '/') => out.push(c),
                '\n' => {}
                // Python keeps the backslash of an escape it does not know
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
}

/// A four-digit escape, two of them for signs beyond the basic plane (JSON).
fn wide(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    let first = hex(chars, 4)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    (chars.next()? == '\\' && chars.next()? == 'u').then_some(())?;
    let second = hex(chars, 4)?.checked_sub(0xdc00)?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)
}

fn hex(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, digits: usize) -> Option<u32> {
    let text: String = chars.take(digits).collect();
    (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_to_write_a_list() {
        for text in [r#"["a, b", "it's", "\u00e9"]"#, r"['a, b', 'it\'s', 'é']", "['a, b' \"it's\"\n 'é']"] {
            assert_eq!(list(text).unwrap(), ["a, b", "it's", "é"], "{text}");
        }
        assert_eq!(list("[1, 2.5]").unwrap(), ["1", "2.5"]);
        assert_eq!(list(r#"["\ud83d\ude00"]"#).unwrap(), ["😀"]);
        assert_eq!(list("['open"), None);
        assert_eq!(list("['open]"), None);
        assert_eq!(list("no list"), None);
        assert_eq!(list("[]").unwrap().len(), 0);
    }
}
