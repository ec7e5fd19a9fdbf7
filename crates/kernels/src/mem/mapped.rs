//! A whole file, mapped read-only.

use std::fs::File;
use std::io;
use std::path::Path;

/// A read-only mapping of a whole file: its pages come from the page cache when they are first read.
///
/// Another process that truncates the file while it is mapped makes the next read of a lost page raise SIGBUS, which
/// ends this process. That is why weights are copied into memory by default, and mapping is a choice.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file at `path`. An empty file gives an empty slice.
    ///
    /// # Errors
    /// What the operating system answers to opening or mapping it.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only, so nothing in this process can write through it. That nobody
        // else changes the file is the caller's choice, documented on the type.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(MappedFile(map))
    }

    /// The bytes of the file.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}
