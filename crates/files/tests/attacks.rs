//! Every hostile file of `attacks/` is refused, for the right reason, quickly and without memory.
//!
//! The files are made from the list in `attack_files/`; `MEDEN_WRITE_ATTACKS=1` writes them and their
//! README.md again after the list was changed.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod attack_files;
mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attack_files::{corpus, readme};
use meden_files::safetensors_file::Safetensors;
use meden_files::{FileError, ModelFiles};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attacks").join(name)
}

/// Opens as its name says. A safetensors file goes to its reader itself, since without a config.json
/// [`ModelFiles`] would refuse even a good one.
fn open(path: &Path) -> Result<(), FileError> {
    if path.extension().is_some_and(|e| e == "gguf") {
        ModelFiles::open(path).map(|_| ())
    } else {
        Safetensors::open(path).map(|_| ())
    }
}

#[test]
fn the_corpus_is_what_its_list_says() {
    for (name, attacks) in corpus() {
        let folder = folder(name);
        if std::env::var_os("MEDEN_WRITE_ATTACKS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            for a in &attacks {
                std::fs::write(folder.join(a.file), &a.bytes).unwrap();
            }
            std::fs::write(folder.join("README.md"), readme(name, &attacks)).unwrap();
        }
        for a in &attacks {
            assert!(a.bytes.len() < 10_000, "{} has {} bytes", a.file, a.bytes.len());
            assert_eq!(std::fs::read(folder.join(a.file)).unwrap(), a.bytes, "{name}/{} is another file", a.file);
        }
        assert_eq!(std::fs::read_to_string(folder.join("README.md")).unwrap(), readme(name, &attacks));
        let files = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(files, attacks.len() + 1, "attacks/{name} holds files that the list does not name");
    }
}

#[test]
fn every_hostile_file_is_refused_for_the_right_reason() {
    let mut wrong = Vec::new();
    for (name, attacks) in corpus() {
        for a in &attacks {
            let path = folder(name).join(a.file);
            let start = Instant::now();
            let Err(error) = open(&path) else {
                wrong.push(format!("{} was taken", a.file));
                continue;
            };
            let (took, text) = (start.elapsed(), error.to_string());
            assert!(took < Duration::from_secs(1), "{}: refused after {took:?}", a.file);
            let remedy = text.contains(';') || text.contains("cannot open");
            if !text.contains(a.says) || !error.path().starts_with(folder(name)) || !remedy {
                wrong.push(format!("{text}\n   does not say: {}", a.says));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Run by the test below, in a child with little memory.
#[test]
#[ignore = "run by the_corpus_needs_no_memory"]
fn in_little_memory() {
    for (name, _) in corpus() {
        for entry in std::fs::read_dir(folder(name)).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("README.md") {
                assert!(open(&path).is_err(), "{} was taken", path.display());
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn the_corpus_needs_no_memory() {
    assert!(common::passes_within(256, "in_little_memory"), "256 MB of address space were not enough");
}
