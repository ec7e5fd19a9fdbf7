//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::FileError;
use crate::json::{self, Pairs};

/// Largest index that is read: a model of 100,000 tensors takes 10 MB.
const INDEX_MAX: u64 = 32 << 20;
/// Ten times the tensors of the largest models.
const TENSORS_MAX: usize = 1 << 18;
/// Shards are kept open; more than this is no model that exists.
const SHARDS_MAX: usize = 512;

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs<String, TENSORS_MAX>,
}

/// The index with its files resolved beside it.
pub(super) struct Index {
    /// Shards, sorted by name.
    pub(super) files: Vec<PathBuf>,
    /// Tensor name -> index into `files`.
    pub(super) tensors: BTreeMap<String, usize>,
}

pub(super) fn read(path: &Path) -> Result<Index, FileError> {
    let raw: RawIndex = json::read(path, INDEX_MAX)?;
    if raw.weight_map.0.is_empty() {
        return Err(FileError::malformed(path, "weight_map", "it names no tensor"));
    }
    let mut names: Vec<&String> = raw.weight_map.0.iter().map(|(_, file)| file).collect();
    names.sort();
    names.dedup();
    if names.len() > SHARDS_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            field: "the number of files in weight_map".into(),
            value: names.len() as u64,
            limit: SHARDS_MAX as u64,
        });
    }
    let mut files = Vec::with_capacity(names.len());
    for name in &names {
        if !is_plain(name) {
            let problem = format!("{name:?} is no plain file name; shards lie in the folder of the index");
            return Err(FileError::malformed(path, "weight_map", problem));
        }
        files.push(path.with_file_name(name));
    }
    let position = |file: &String| names.binary_search(&file).unwrap_or_default();
    let tensors = raw.weight_map.0.iter().map(|(t, file)| (t.clone(), position(file))).collect();
    Ok(Index { files, tensors })
}

/// A name without any way out of its folder, on any system.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
