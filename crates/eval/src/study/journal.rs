//! Results that are written as they come, so that a study that was stopped goes on where it was.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::EvalError;

/// A file of JSON lines, each a pair of a key and a value. A key that is there is not measured again.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    file: File,
    values: HashMap<String, T>,
    note: Option<String>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens or begins a file. A last line without its end, as a killed run leaves it, is cut off and told in
    /// [`Journal::note`].
    ///
    /// # Errors
    /// A file that cannot be read or written, any other line that does not parse.
    pub fn open(path: &Path) -> Result<Journal<T>, EvalError> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut values = HashMap::new();
        for (number, line) in text[..whole].lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let (key, value): (String, T) = serde_json::from_str(line).map_err(|e| EvalError::Results {
                line: number + 1,
                why: format!(
                    "{}: no result of this program: {e}; remove the line or begin in another folder",
                    path.display()
                ),
            })?;
            values.entry(key).or_insert(value);
        }
        let broken = text.len() - whole;
        if broken > 0 {
            file.set_len(whole as u64)?;
        }
        file.seek(SeekFrom::End(0))?;
        let note = (broken > 0).then(|| format!("{}: a last line that was cut short is done again", path.display()));
        Ok(Journal { path: path.to_owned(), file, values, note })
    }

    /// What a user should know about the file that was opened.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.values.get(key)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Writes a value down. One whose key is there already is ignored.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn put(&mut self, key: String, value: T) -> Result<(), EvalError> {
        if self.values.contains_key(&key) {
            return Ok(());
        }
        let unfit = |e: serde_json::Error| std::io::Error::other(format!("{}: {e}", self.path.display()));
        let mut line = serde_json::to_vec(&(&key, &value)).map_err(unfit)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.flush()?;
        self.values.insert(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_again_and_a_cut_line_is_done_again() {
        let path = std::env::temp_dir().join(format!("meden-journal-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut journal = Journal::open(&path).unwrap();
        for i in 0..3u32 {
            journal.put(format!("k{i}"), i * 10).unwrap();
        }
        journal.put("k1".into(), 99).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        std::fs::write(&path, &text[..text.len() - 2]).unwrap();
        let mut journal = Journal::<u32>::open(&path).unwrap();
        assert_eq!((journal.len(), journal.get("k1"), journal.get("k2")), (2, Some(&10), None));
        assert!(journal.note().is_some());
        journal.put("k2".into(), 20).unwrap();
        drop(journal);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        std::fs::write(&path, "[\"a\", 1]\nnonsense\n[\"b\", 2]\n").unwrap();
        assert!(matches!(Journal::<u32>::open(&path), Err(EvalError::Results { line: 2, .. })));
        let _ = std::fs::remove_file(&path);
    }
}
