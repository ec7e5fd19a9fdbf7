//! JSON as Python's `json.dumps` writes it, which is what chat templates were made and trained with: a space after
//! each comma and colon, or one entry a line with `indent`.

use std::fmt::Write;

use serde_json::Value;

/// The options of `json.dumps` that templates use.
pub(super) struct Style {
    /// Spaces a level; `None`: all on one line.
    pub indent: Option<usize>,
    /// Keys in alphabetical order.
    pub sort: bool,
    /// Only ASCII: others as `\uXXXX`.
    pub ascii: bool,
}

/// Writes a value.
pub(super) fn write(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    put(value, style, 0, &mut out);
    out
}

fn put(value: &Value, style: &Style, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(text, style, out),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(i, style, depth + 1, out);
                put(item, style, depth + 1, out);
            }
            close(']', style, depth, out);
        }
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            if style.sort {
                entries.sort_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                separate(i, style, depth + 1, out);
                string(key, style, out);
                out.push_str(": ");
                put(item, style, depth + 1, out);
            }
            close('}', style, depth, out);
        }
    }
}

fn separate(index: usize, style: &Style, depth: usize, out: &mut String) {
    match style.indent {
        Some(spaces) => {
            out.push_str(if index > 0 { ",\n" } else { "\n" });
            out.extend(std::iter::repeat_n(' ', spaces * depth));
        }
        None if index > 0 => out.push_str(", "),
        None => {}
    }
}

fn close(bracket: char, style: &Style, depth: usize, out: &mut String) {
    if let Some(spaces) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', spaces * depth));
    }
    out.push(bracket);
}

fn string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || style.ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_python_writes() {
        let value: Value =
            serde_json::from_str(r#"{"b":[1,2.5,true,null],"a":{"é\n":"\u0001😀"},"c":[],"d":{}}"#).unwrap();
        let style = |indent, sort, ascii| Style { indent, sort, ascii };
        assert_eq!(
            write(&value, &style(None, false, false)),
            "{\"b\": [1, 2.5, true, null], \"a\": {\"é\\n\": \"\\u0001😀\"}, \"c\": [], \"d\": {}}"
        );
        assert_eq!(
            write(&value, &style(None, true, true)),
            "{\"a\": {\"\\u00e9\\n\": \"\\u0001\\ud83d\\ude00\"}, \"b\": [1, 2.5, true, null], \"c\": [], \"d\": {}}"
        );
        assert_eq!(write(&value["b"], &style(Some(2), false, false)), "[\n  1,\n  2.5,\n  true,\n  null\n]");
    }
}
