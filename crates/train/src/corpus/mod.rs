//! Text to train on: documents from packages and from files of the user's own, each with its source and hash, and a part
//! that is held out.
//!
//! A corpus is a file of JSON lines: a head that names the sources, then one document a line. Long texts are parted into
//! documents at empty lines. A document is held out when its hash says so, so the same text is always on the same side.

mod clean;
mod packages;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use meden_files::hash::Hash;
use meden_files::{AtomicFile, FileError};
use serde::{Deserialize, Serialize};

pub use clean::{Kind, clean};
pub use packages::{Client, PACKAGES, Package, fetch};

/// Length in bytes that a document is parted at.
const LONGEST: usize = 40_000;
/// Shorter pieces are no documents.
const SHORTEST: usize = 400;
/// One document in so many is held out.
const HELD_OUT: u32 = 20;
/// Largest file that is read.
const MOST: u64 = 256 << 20;

/// Errors of a corpus.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A package could not be fetched.
    #[error("{package}: {why}")]
    Package {
        /// Name and version.
        package: String,
        /// What went wrong, and what to do.
        why: String,
    },
    /// A file that is no corpus.
    #[error("{}, line {line}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// No text was found.
    #[error("{}: no text of at least {SHORTEST} bytes; give .txt, .md, .pod or .html files, or a folder with some", path.display())]
    NoText {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name: a package with its version, or the file or folder.
    pub name: String,
    /// Licence, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// SHA-256 of the package, or of the texts in order.
    pub sha256: String,
    /// Documents.
    pub documents: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Number of its source.
    pub source: usize,
    /// File in the source, and the number of the piece.
    pub name: String,
    /// Whether it is kept from training.
    pub held_out: bool,
    /// The text.
    pub text: String,
}

/// The head of the file.
#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    sources: Vec<Source>,
}

const FORMAT: &str = "meden-corpus-1";

/// Documents and where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Sources.
    pub sources: Vec<Source>,
    /// Documents, source by source.
    pub documents: Vec<Document>,
    seen: HashSet<[u8; 32]>,
}

impl Corpus {
    /// No text yet.
    pub fn new() -> Corpus {
        Corpus::default()
    }

    /// Adds a file, or every text under a folder in the order of the names. A text that is there already, from whatever
    /// source, is left out.
    ///
    /// # Errors
    /// What cannot be read; no text.
    pub fn add(
        &mut self,
        path: &Path,
        name: &str,
        licence: Option<&str>,
        sha256: Option<String>,
    ) -> Result<(), CorpusError> {
        let mut files = Vec::new();
        gather(path, &mut files)?;
        files.sort();
        let number = self.sources.len();
        let mut hash = Hash::sha256();
        let (mut documents, mut bytes) = (0, 0);
        for file in &files {
            let size = std::fs::metadata(file).map_err(|e| FileError::io(file, "open", e))?.len();
            let Some(kind) = Kind::of(file).filter(|_| size <= MOST) else { continue };
            let raw = std::fs::read(file).map_err(|e| FileError::io(file, "read", e))?;
            let text = clean(&String::from_utf8_lossy(&raw), kind);
            let short = file.strip_prefix(path).ok().filter(|p| !p.as_os_str().is_empty()).unwrap_or(file);
            for (part, piece) in pieces(&text).into_iter().enumerate() {
                let mut own = Hash::sha256();
                own.update(piece.as_bytes());
                let digest = own.bytes();
                if piece.len() < SHORTEST || !self.seen.insert(digest) {
                    continue;
                }
                hash.update(piece.as_bytes());
                let held_out =
                    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).is_multiple_of(HELD_OUT);
                documents += 1;
                bytes += piece.len();
                let name = format!("{}#{part}", short.display());
                self.documents.push(Document { source: number, name, held_out, text: piece.to_owned() });
            }
        }
        if documents == 0 {
            return Err(CorpusError::NoText { path: path.to_owned() });
        }
        let sha256 = sha256.unwrap_or_else(|| hash.hex());
        let licence = licence.map(str::to_owned);
        self.sources.push(Source { name: name.to_owned(), licence, sha256, documents, bytes });
        Ok(())
    }

    /// Leaves out every document that holds one of these texts, as a study has to whose questions must not have been
    /// trained on; how many there were.
    pub fn leave_out(&mut self, texts: &[String]) -> usize {
        const BEGINNING: usize = 12;
        // thousands of texts: only where the beginning of one stands is the rest compared
        let (long, short): (Vec<&String>, Vec<&String>) =
            texts.iter().filter(|t| !t.is_empty()).partition(|t| t.len() >= BEGINNING);
        let mut by_beginning: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for text in long {
            by_beginning.entry(&text.as_bytes()[..BEGINNING]).or_default().push(text.as_bytes());
        }
        let holds_one = |text: &str| {
            let bytes = text.as_bytes();
            let at = |(i, window): (usize, &[u8])| {
                by_beginning.get(window).is_some_and(|all| all.iter().any(|t| bytes[i..].starts_with(t)))
            };
            bytes.windows(BEGINNING).enumerate().any(at) || short.iter().any(|t| text.contains(t.as_str()))
        };
        let before = self.documents.len();
        self.documents.retain(|d| !holds_one(&d.text));
        before - self.documents.len()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(&self, path: &Path) -> Result<(), CorpusError> {
        let mut file = AtomicFile::create(path)?;
        let fail = |e: std::io::Error| FileError::io(path, "write", e);
        let head = Head { format: FORMAT.into(), sources: self.sources.clone() };
        serde_json::to_writer(&mut file, &head).map_err(|e| fail(e.into()))?;
        for document in &self.documents {
            file.write_all(b"\n").map_err(fail)?;
            serde_json::to_writer(&mut file, document).map_err(|e| fail(e.into()))?;
        }
        file.write_all(b"\n").map_err(fail)?;
        Ok(file.commit()?)
    }

    /// Reads a file that [`Corpus::write`] wrote.
    ///
    /// # Errors
    /// A file that is none, with the line.
    pub fn read(path: &Path) -> Result<Corpus, CorpusError> {
        let file = std::fs::File::open(path).map_err(|e| FileError::io(path, "open", e))?;
        let mut corpus = Corpus::default();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|e| FileError::io(path, "read", e))?;
            let bad = |why: String| CorpusError::Format { path: path.to_owned(), line: number + 1, why };
            if number == 0 {
                let head: Head = serde_json::from_str(&line)
                    .map_err(|_| bad("no corpus of this program: make one with `meden sae corpus`".into()))?;
                if head.format != FORMAT {
                    return Err(bad(format!("a corpus of format {}: make it again", head.format)));
                }
                corpus.sources = head.sources;
                continue;
            }
            let document: Document =
                serde_json::from_str(&line).map_err(|e| bad(format!("no document: {e}; make the corpus again")))?;
            corpus.documents.push(document);
        }
        Ok(corpus)
    }
}

/// Every file under a path; links are not followed.
fn gather(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), CorpusError> {
    let meta = std::fs::symlink_metadata(path).map_err(|e| FileError::io(path, "open", e))?;
    if meta.is_file() {
        files.push(path.to_owned());
    }
    if !meta.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|e| FileError::io(path, "list", e))? {
        gather(&entry.map_err(|e| FileError::io(path, "list", e))?.path(), files)?;
    }
    Ok(())
}

/// A text in pieces of about the longest length, parted at empty lines where there are some.
fn pieces(text: &str) -> Vec<&str> {
    let (mut all, mut rest) = (Vec::new(), text.trim());
    while rest.len() > LONGEST {
        let mut limit = LONGEST;
        while !rest.is_char_boundary(limit) {
            limit -= 1;
        }
        let at = rest[..limit].rfind("\n\n").filter(|at| *at >= LONGEST / 2).unwrap_or(limit);
        all.push(rest[..at].trim());
        rest = rest[at..].trim_start();
    }
    if !rest.is_empty() {
        all.push(rest);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("meden-corpus-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("a")).unwrap();
        folder
    }

    #[test]
    fn documents_are_parted_held_out_and_never_twice() {
        let folder = folder("parts");
        let paragraph = |n: usize| format!("Paragraph {n}. {}", "Some words follow here. ".repeat(30));
        let long: Vec<String> = (0..400).map(paragraph).collect();
        std::fs::write(folder.join("a/long.txt"), long.join("\n\n")).unwrap();
        std::fs::write(folder.join("b.txt"), paragraph(7_000)).unwrap();
        std::fs::write(folder.join("copy.txt"), paragraph(7_000)).unwrap();
        std::fs::write(folder.join("tiny.txt"), "too short").unwrap();
        std::fs::write(folder.join("c.bin"), [0u8; 5000]).unwrap();
        let mut corpus = Corpus::new();
        corpus.add(&folder, "texts", Some("CC0"), None).unwrap();
        assert_eq!(corpus.sources[0].documents, corpus.documents.len());
        assert!(corpus.documents.len() > 7 && corpus.documents.iter().all(|d| d.text.len() <= LONGEST));
        assert!(corpus.documents.iter().all(|d| d.name.starts_with("a/long") || d.name.starts_with("b.txt")));
        let whole: usize = corpus.documents.iter().map(|d| d.text.matches("Paragraph").count()).sum();
        assert_eq!(whole, 401);
        let file = folder.join("corpus.jsonl");
        corpus.write(&file).unwrap();
        let read = Corpus::read(&file).unwrap();
        assert_eq!((read.sources, read.documents), (corpus.sources.clone(), corpus.documents.clone()));
        assert_eq!(corpus.leave_out(&["Paragraph 7000.".into(), "no such text anywhere".into(), String::new()]), 1);
        assert_eq!(corpus.leave_out(&["raph 1.".into()]), 1);
        std::fs::write(&file, "nonsense").unwrap();
        assert!(Corpus::read(&file).unwrap_err().to_string().contains("line 1"));
        assert!(matches!(Corpus::new().add(&folder.join("c.bin"), "x", None, None), Err(CorpusError::NoText { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn about_one_document_in_twenty_is_held_out() {
        let folder = folder("share");
        for n in 0..2000 {
            std::fs::write(folder.join(format!("{n}.txt")), format!("Text {n}. ").repeat(60)).unwrap();
        }
        let mut corpus = Corpus::new();
        corpus.add(&folder, "many", None, None).unwrap();
        let held = corpus.documents.iter().filter(|d| d.held_out).count();
        assert!((60..=140).contains(&held), "{held}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
