//! Small files that a press reads when it is made: lists of numbers and their settings.

use std::io::Read;
use std::path::Path;

use crate::error::EngineError;

/// A file that cannot be used, and why.
pub(crate) fn refuse(press: &str, path: &Path, why: impl std::fmt::Display) -> EngineError {
    EngineError::Press { press: press.to_string(), why: format!("{}: {why}", path.display()) }
}

/// The text of a file of at most `most` bytes.
pub(crate) fn text(press: &str, path: &Path, most: u64) -> Result<String, EngineError> {
    let file = std::fs::File::open(path).map_err(|error| refuse(press, path, error))?;
    let mut text = String::new();
    let read = file.take(most + 1).read_to_string(&mut text).map_err(|error| refuse(press, path, error))?;
    if read as u64 > most {
        return Err(refuse(press, path, format!("it is longer than the {most} bytes that such a file may have")));
    }
    Ok(text)
}

/// A table of numbers, one line a row, columns between tabs; `(rows, columns)`.
pub(crate) fn table(press: &str, path: &Path) -> Result<Vec<Vec<f64>>, EngineError> {
    let text = text(press, path, 16 << 20)?;
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |why: String| refuse(press, path, format!("line {}: {why}", number + 1));
        let mut row = Vec::new();
        for cell in line.split('\t') {
            let value = cell.trim().parse::<f64>().ok().filter(|v| v.is_finite());
            row.push(value.ok_or_else(|| at(format!("`{}` is not a number", cell.trim())))?);
        }
        if rows.first().is_some_and(|first| first.len() != row.len()) {
            return Err(at(format!("{} columns, the first line has {}", row.len(), rows[0].len())));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(refuse(press, path, "it holds no numbers"));
    }
    Ok(rows)
}
