//! Small JSON files, read with a limit.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::FileError;
use crate::storage::Storage;

/// Parses a JSON file of at most `limit` bytes. `serde_json` refuses nesting beyond 128 by itself.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, FileError> {
    let bytes = read_bytes(path, limit)?;
    serde_json::from_slice(&bytes).map_err(|source| FileError::Json { path: path.to_owned(), source })
}

/// A whole small file.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let storage = Storage::open(path)?;
    if storage.len() > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            field: "the length of the file".into(),
            value: storage.len(),
            limit,
        });
    }
    storage.read_vec(0, storage.len(), "the file")
}

/// A whole small text file.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    String::from_utf8(read_bytes(path, limit)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        FileError::malformed(path, "the text", format!("not UTF-8 at byte {at}"))
    })
}
