//! Standard output. Nothing is printed any other way, so that a reader who goes away ends the program quietly instead
//! of with a panic.

use std::io::{self, Write};

use meden_report::json;
use serde::Serialize;

use crate::exit::Exit;

/// Writes text and flushes it, so that a reader sees it at once.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
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
