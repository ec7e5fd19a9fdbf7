//! Labelled images by a list: CSV or TSV with the columns `path` and `label`.

use std::path::Path;

use super::folder::{Labelled, image_folder};
use crate::error::VisionError;

/// Largest list.
const LIST_MAX: u64 = 256 << 20;

/// Labelled images of a folder (a folder a class) or of a list (a file).
///
/// # Errors
/// As [`image_folder`] and [`image_list`].
pub fn labelled(path: &Path) -> Result<Labelled, VisionError> {
    if path.is_file() { image_list(path) } else { image_folder(path) }
}

/// A list's images. The first line names the columns, `path` and `label` among them; fields are parted by commas, or by
/// tabs where the name ends in .tsv, and may be quoted. Paths are relative to the list's folder. Classes are sorted.
///
/// # Errors
/// A list that cannot be read, lacks a column, has a line with another number of fields, or holds no image; the line is
/// named.
pub fn image_list(path: &Path) -> Result<Labelled, VisionError> {
    let fail = |problem: String, fix: &str| VisionError::image(path, problem, fix);
    let io = |e: std::io::Error| fail(format!("cannot be read: {e}"), "check the path");
    if std::fs::metadata(path).map_err(io)?.len() > LIST_MAX {
        return Err(fail(format!("is larger than {LIST_MAX} bytes"), "cut it into parts"));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let separator = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv")) { '\t' } else { ',' };
    let rows = parse(text.trim_start_matches('\u{feff}'), separator)
        .map_err(|line| fail(format!("line {line}: a quote is not closed"), "close it"))?;
    let Some(((_, head), rows)) = rows.split_first() else {
        return Err(fail("is empty".into(), "write a line with path and label, then a line an image"));
    };
    let column = |name: &str| {
        let missing = || fail(format!("line 1 names no column {name:?}"), "name the columns path and label there");
        head.iter().position(|h| h.trim() == name).ok_or_else(missing)
    };
    let (file, label) = (column("path")?, column("label")?);
    if rows.is_empty() {
        return Err(fail("lists no image".into(), "write a line an image"));
    }
    let mut names = Vec::with_capacity(rows.len());
    let mut all = Labelled::default();
    let root = path.parent().unwrap_or(Path::new(""));
    for (line, fields) in rows {
        if fields.len() != head.len() {
            let problem = format!("line {line} has {} fields, line 1 has {}", fields.len(), head.len());
            return Err(fail(problem, "quote fields that hold a separator"));
        }
        if fields[file].is_empty() || fields[label].is_empty() {
            return Err(fail(format!("line {line} has an empty path or label"), "fill or remove it"));
        }
        all.paths.push(root.join(&fields[file]));
        names.push(fields[label].clone());
    }
    all.classes = names.clone();
    all.classes.sort();
    all.classes.dedup();
    all.labels = names.iter().filter_map(|n| all.classes.binary_search(n).ok()).collect();
    Ok(all)
}

/// Rows that are not empty, each with the line it begins at; the line of a quote that is never closed.
fn parse(text: &str, separator: char) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begun, mut quoted) = (1, 1, None);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        line += usize::from(c == '\n');
        if quoted.is_some() {
            if c != '"' {
                field.push(c);
            } else if rest.next_if_eq(&'"').is_some() {
                field.push('"');
            } else {
                quoted = None;
            }
        } else if c == '"' && field.is_empty() {
            quoted = Some(line);
        } else if c == separator {
            row.push(std::mem::take(&mut field));
        } else if c == '\n' {
            row.push(field.trim_end_matches('\r').to_owned());
            field.clear();
            rows.push((begun, std::mem::take(&mut row)));
            begun = line;
        } else {
            field.push(c);
        }
    }
    if let Some(line) = quoted {
        return Err(line);
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push((begun, row));
    }
    rows.retain(|(_, r)| r.len() > 1 || r.iter().any(|f| !f.is_empty()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_line_ends_and_empty_lines_are_read() {
        let rows = parse("path,label\r\n\"a,b.jpg\",\"say \"\"x\"\"\"\n\n\"two\nlines\",z", ',').unwrap();
        assert_eq!(rows[1], (2, vec!["a,b.jpg".to_owned(), "say \"x\"".to_owned()]));
        assert_eq!(rows[2], (4, vec!["two\nlines".to_owned(), "z".to_owned()]));
        assert_eq!(parse("a,\"b\nc", ','), Err(1));
    }

    #[test]
    fn lists_give_sorted_classes_and_errors_name_the_line() {
        let folder = std::env::temp_dir().join(format!("meden-list-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let list = folder.join("set.csv");
        let read = |text: &str| {
            std::fs::write(&list, text).unwrap();
            image_list(&list)
        };
        let set = read("label,path\nshoe,x/1.jpg\nhat,x/2.jpg\nshoe,x/3.jpg\n").unwrap();
        assert_eq!((set.classes, set.labels), (vec!["hat".to_owned(), "shoe".to_owned()], vec![1, 0, 1]));
        assert_eq!(set.paths[0], folder.join("x/1.jpg"));
        for (text, word) in [
            ("path,label\na,b,c\n", "line 2"),
            ("file,label\na,b\n", "path"),
            ("path,label\n", "no image"),
            ("", "empty"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("set.csv"), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
