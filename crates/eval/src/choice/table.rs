//! Tables as they lie about: CSV in three encodings, two delimiters, with line breaks inside quotes.

use crate::error::EvalError;

/// A table with named columns. Cells are as in the file, but for its quoting.
#[derive(Clone, Debug, PartialEq)]
pub struct Csv {
    /// Names of the columns, trimmed; an empty name where the file has a nameless column.
    pub header: Vec<String>,
    /// Rows and the number of the line (from 1) that each begins on.
    pub rows: Vec<(usize, Vec<String>)>,
    /// What a reader should know: an encoding that is not UTF-8.
    pub notes: Vec<String>,
}

impl Csv {
    /// Reads a table; `name` is for messages. The delimiter is the one of comma, semicolon and tab that the header has most.
    ///
    /// # Errors
    /// A table without a header, an open quote at the end, or a row with more cells than the header.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Csv, EvalError> {
        let (text, note) = decode(bytes);
        let first = text.lines().next().unwrap_or_default();
        let delimiter = [',', ';', '\t'].into_iter().rev().max_by_key(|d| first.matches(*d).count()).unwrap_or(',');
        let mut rows = split(&text, delimiter)
            .map_err(|line| items_error(name, line, "a quote that is never closed; close it or double it"))?;
        if rows.is_empty() {
            return Err(items_error(name, 1, "the file is empty; a header with the names of the columns is needed"));
        }
        let (_, header) = rows.remove(0);
        let header: Vec<String> = header.into_iter().map(|h| h.trim().to_owned()).collect();
        for (line, row) in &mut rows {
            if row.len() > header.len() && row[header.len()..].iter().any(|c| !c.trim().is_empty()) {
                let why = format!(
                    "{} cells, but the header names {} columns; quote cells that hold the delimiter",
                    row.len(),
                    header.len()
                );
                return Err(items_error(name, *line, &why));
            }
            row.resize(header.len(), String::new());
        }
        let notes = note.map(|n| format!("{name}: {n}")).into_iter().collect();
        Ok(Csv { header, rows, notes })
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|h| h.eq_ignore_ascii_case(name))
    }

    /// The place of a column that has to be there.
    ///
    /// # Errors
    /// A table without it.
    pub fn need(&self, file: &str, name: &str) -> Result<usize, EvalError> {
        self.column(name).ok_or_else(|| {
            items_error(file, 1, &format!("no column `{name}`; the header has: {}", self.header.join(", ")))
        })
    }
}

/// An error about a place in a file of items.
pub(crate) fn items_error(file: &str, line: usize, why: &str) -> EvalError {
    EvalError::Items { file: file.to_owned(), line, why: why.to_owned() }
}

/// Rows with the line that each begins on; the line of an open quote as the error.
fn split(text: &str, delimiter: char) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut rows = Vec::new();
    let (mut row, mut cell, mut started) = (Vec::new(), String::new(), 1);
    let (mut line, mut quoted, mut opened) = (1, false, 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        if quoted {
            if c != '"' {
                cell.push(c);
            } else if chars.next_if_eq(&'"').is_some() {
                cell.push('"');
            } else {
                quoted = false;
            }
        } else if c == '"' && cell.is_empty() {
            (quoted, opened) = (true, line);
        } else if c == delimiter {
            row.push(std::mem::take(&mut cell));
        } else if c == '\n' || c == '\r' {
            if c == '\r' && chars.next_if_eq(&'\n').is_some() {
                line += 1;
            }
            row.push(std::mem::take(&mut cell));
            push_row(&mut rows, (started, std::mem::take(&mut row)));
            started = line;
        } else {
            cell.push(c);
        }
    }
    if quoted {
        return Err(opened);
    }
    row.push(cell);
    push_row(&mut rows, (started, row));
    Ok(rows)
}

/// Lines without any text are no rows.
fn push_row(rows: &mut Vec<(usize, Vec<String>)>, row: (usize, Vec<String>)) {
    if row.1.iter().any(|c| !c.is_empty()) {
        rows.push(row);
    }
}

const MAC_ROMAN: &str = "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CP1252: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";
/// Signs that English text really has; any other sign beyond ASCII speaks against an encoding.
const USUAL: &str = "‘’“”–—…•°£€é×\u{a0}";

/// Text of bytes: UTF-8 with or without its mark, else Mac Roman or Windows-1252, whichever gives fewer odd signs.
fn decode(bytes: &[u8]) -> (String, Option<String>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_owned(), None);
    }
    let mac: Vec<char> = MAC_ROMAN.chars().collect();
    let windows: Vec<char> = CP1252.chars().chain((0xa0..=0xff_u8).map(char::from)).collect();
    let with = |table: &[char]| -> String {
        let sign = |b: u8| if b < 128 { char::from(b) } else { table[usize::from(b) - 128] };
        bytes.iter().map(|&b| sign(b)).collect()
    };
    let odd = |text: &str| text.chars().filter(|c| !c.is_ascii() && !USUAL.contains(*c)).count();
    let (mac, windows) = (with(&mac), with(&windows));
    let (text, name) = if odd(&mac) < odd(&windows) { (mac, "Mac Roman") } else { (windows, "Windows-1252") };
    (text, Some(format!("not UTF-8; read as {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_delimiters_and_line_breaks() {
        let csv = Csv::read("f", b"\xef\xbb\xbfa;b\r\n\"1;\"\"2\"\"\r\n3\";4\r\n\r\n5;6").unwrap();
        assert_eq!(csv.header, ["a", "b"]);
        assert_eq!(csv.rows[0], (2, vec!["1;\"2\"\r\n3".to_owned(), "4".to_owned()]));
        assert_eq!(csv.rows[1].1, ["5", "6"]);
        assert!(Csv::read("f", b"a,b\n\"1,2\n").unwrap_err().to_string().contains("line 2"));
        assert!(Csv::read("f", b"a,b\n1,2,3\n").is_err());
        assert_eq!(Csv::read("f", b"a,,\n1,,\n").unwrap().rows.len(), 1);
    }

    #[test]
    fn old_encodings_are_told_apart() {
        assert_eq!(MAC_ROMAN.chars().count(), 128);
        assert_eq!(CP1252.chars().count(), 32);
        let mac = Csv::read("f", b"a\nit\xd5s \xd2so\xd3").unwrap();
        assert_eq!(mac.rows[0].1[0], "it’s “so”");
        assert!(mac.notes[0].contains("Mac Roman"));
        let windows = Csv::read("f", b"a\nit\x92s \x93so\x94").unwrap();
        assert_eq!(windows.rows[0].1[0], "it’s “so”");
    }
}
