//! Arrays of NumPy's `.npz` format: a zip archive of [`npy`] files, stored or deflated.

use std::path::Path;

use crate::FileError;
use crate::npy::{self, Array};
use crate::zip::Zip;

/// Reads all arrays of an archive, by name and in the order of the archive. What it unpacks to may take at most `most`
/// bytes.
///
/// # Errors
/// No archive, one that is cut short, swells or is longer; an array that [`npy`] does not read.
pub fn read(path: &Path, most: u64) -> Result<Vec<(String, Array)>, FileError> {
    let zip = Zip::open(path)?;
    let refuse = |why: String| FileError::Npy { path: path.to_owned(), why };
    let total = zip.entries().iter().try_fold(0u64, |sum, e| sum.checked_add(e.size));
    if total.is_none_or(|total| total > most) {
        return Err(refuse(format!("it unpacks to more than the {most} bytes such an archive may have")));
    }
    let mut arrays = Vec::new();
    for entry in zip.entries() {
        let Some(name) = entry.name.strip_suffix(".npy") else {
            return Err(refuse(format!("it holds {}, which is no array", entry.name)));
        };
        let mut bytes = Vec::new();
        zip.unpack(entry, &mut bytes, &mut |_| {})?;
        let array = npy::parse(&bytes).map_err(|why| refuse(format!("{name}: {why}")))?;
        arrays.push((name.to_owned(), array));
    }
    Ok(arrays)
}
