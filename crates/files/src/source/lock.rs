//! One process fetches, the others wait.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::{Progress, SourceError};

/// A lock on a file, held until dropped. The operating system lets go of it when a process dies, so a
/// crash never leaves a model locked; the file itself stays and means nothing.
pub(super) struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Takes the lock, waiting for whoever holds it. Makes the folder.
    pub(super) fn take(path: &Path, progress: &mut dyn Progress) -> Result<Lock, SourceError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| SourceError::io(folder, "create", e))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|e| SourceError::io(path, "open the lock", e))?;
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(SourceError::io(path, "take the lock", e)),
        }
        progress.start("waiting for another process that fetches the same model", None);
        let taken = file.lock().map_err(|e| SourceError::io(path, "take the lock", e));
        progress.finish();
        taken.map(|()| Lock(file))
    }
}
