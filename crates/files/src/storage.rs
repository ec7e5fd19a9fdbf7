//! One open file that is read at given places.
//!
//! `pread` and not a mapping: a mapped file that another program cuts short kills the process with a
//! signal, while a short `pread` is an ordinary error; and pages that were read do not count as ours.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::FileError;

/// A file, its path for messages and its length when it was opened.
#[derive(Debug)]
pub(crate) struct Storage {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Storage {
    /// Opens a regular file (a folder, pipe or device is refused: its length means nothing).
    pub(crate) fn open(path: &Path) -> Result<Storage, FileError> {
        let not_a_file = |what: &str| FileError::NotAModel {
            path: path.to_owned(),
            problem: format!("is {what}, not a regular file"),
            fix: "give the path of a model file".into(),
        };
        let meta = std::fs::metadata(path).map_err(|e| FileError::io(path, "open", e))?;
        if meta.is_dir() {
            return Err(not_a_file("a folder"));
        }
        if !meta.is_file() {
            return Err(not_a_file("a pipe or device"));
        }
        let file = File::open(path).map_err(|e| FileError::io(path, "open", e))?;
        let len = file.metadata().map_err(|e| FileError::io(path, "ask the length of", e))?.len();
        Ok(Storage { path: path.to_owned(), file, len })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`; `field` names the place in messages.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8], field: &str) -> Result<(), FileError> {
        self.check(offset, out.len() as u64, field)?;
        match read_exact_at(&self.file, out, offset) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(FileError::Shrunk {
                path: self.path.clone(),
                field: field.to_owned(),
                offset,
                need: out.len() as u64,
                opened: self.len,
                now: self.file.metadata().map_or(0, |m| m.len()),
            }),
            Err(e) => Err(FileError::io(&self.path, format!("read {field}"), e)),
        }
    }

    /// `need` bytes from `offset`. Checked against the file's length before anything is allocated.
    pub(crate) fn read_vec(&self, offset: u64, need: u64, field: &str) -> Result<Vec<u8>, FileError> {
        let size = self.check(offset, need, field)?;
        let mut out = vec![0; size];
        self.read_at(offset, &mut out, field)?;
        Ok(out)
    }

    /// Typed error unless `offset .. offset + need` lies in the file; `need` as a usize.
    pub(crate) fn check(&self, offset: u64, need: u64, field: &str) -> Result<usize, FileError> {
        let fits = offset.checked_add(need).is_some_and(|end| end <= self.len);
        match usize::try_from(need) {
            Ok(size) if fits => Ok(size),
            _ => Err(FileError::Truncated {
                path: self.path.clone(),
                field: field.to_owned(),
                offset,
                need,
                len: self.len,
            }),
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
