//! JSON lines: one object a line, flushed when it is complete, so that a reader never sees half of one.

use serde::Serialize;
use std::io::{self, Write};

/// Writes `value` as one line of JSON and flushes. Numbers that are not finite become `null`, as JSON has none.
///
/// # Errors
/// What the writer reports, and values that JSON cannot hold (a map with keys that are no strings).
pub fn write_line<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_one_line_even_with_line_breaks_inside() {
        let mut out = Vec::new();
        write_line(&mut out, &serde_json::json!({"text": "a\nb", "nll": f64::NAN})).unwrap();
        write_line(&mut out, &1).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"text\":\"a\\nb\",\"nll\":null}\n1\n");
    }
}
