//! Files that appear only when they are whole.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FileError;

/// Written under a temporary name beside the target, renamed by [`AtomicFile::commit`], removed when
/// dropped before that.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// A new file that will be `target`; a folder that does not exist or cannot be written is an error.
    pub fn create(target: &Path) -> Result<AtomicFile, FileError> {
        // The process and a counter: two threads or two processes never share a name.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            let e = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
            return Err(FileError::io(target, "create", e));
        };
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{n}.tmp", std::process::id()));
        let temporary = target.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| FileError::io(&temporary, "create", e))?;
        Ok(AtomicFile { target: target.to_owned(), temporary, file: Some(BufWriter::new(file)) })
    }

    /// Makes `target` of these bytes.
    ///
    /// # Errors
    /// What [`AtomicFile::create`] and writing refuse.
    pub fn whole(target: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let mut file = AtomicFile::create(target)?;
        file.write_all(bytes).map_err(|e| FileError::io(target, "write", e))?;
        file.commit()
    }

    /// Flushes to disk and gives the file its name.
    pub fn commit(mut self) -> Result<(), FileError> {
        let fail = |e| FileError::io(&self.target, "write", e);
        if let Some(writer) = self.file.take() {
            let file = writer.into_inner().map_err(|e| fail(e.into_error()))?;
            file.sync_all().map_err(fail)?;
        }
        std::fs::rename(&self.temporary, &self.target).map_err(fail)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(f) => f.write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and this does nothing.
        drop(self.file.take());
        let _ = std::fs::remove_file(&self.temporary);
    }
}
