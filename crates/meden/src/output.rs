//! Standard output. Nothing is printed any other way, so that a reader who goes away ends the program quietly instead
//! of with a panic.

use std::io::{self, Write};

use meden_report::json;
use serde::Serialize;

use crate::exit::Exit;
use crate::generate::Answer;

/// Writes text and flushes it, so that a reader sees it at once.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Ends an answer's text, which was written as it came: with a new line where it has none; a model without a tokenizer
/// has written nothing yet, and its ids are printed.
pub fn end_of_answer(answer: &Answer, tokenizer: bool) -> io::Result<()> {
    if !tokenizer {
        let ids: Vec<String> = answer.ids.iter().map(u32::to_string).collect();
        return text(&format!("{}\n", ids.join(",")));
    }
    if answer.text.ends_with('\n') { Ok(()) } else { text("\n") }
}

/// Writes the one object of `--json`.
pub fn object<T: Serialize + ?Sized>(value: &T) -> io::Result<()> {
    json::write_line(&mut io::stdout().lock(), value)
}

/// The one object of `--json` when nothing else could be printed.
pub fn json_error(exit: Exit, message: &str) {
    let error = serde_json::json!({
        "error": { "exit_code": exit as u8, "kind": exit.name(), "message": message }
    });
    // There is no one left to tell if this fails.
    let _ = object(&error);
}
