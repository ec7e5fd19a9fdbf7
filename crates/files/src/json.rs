//! Small JSON files, read with a limit.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::error::FileError;
use crate::storage::Storage;

/// Parses a JSON file of at most `limit` bytes. `serde_json` refuses nesting beyond 128 by itself.
pub fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, FileError> {
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

/// An object of at most `MAX` members in the order of the file. A name that comes twice is an error, where
/// a map would silently keep the last one; one member too many ends the reading at once.
pub(crate) struct Pairs<T, const MAX: usize>(pub(crate) Vec<(String, T)>);

impl<T, const MAX: usize> Default for Pairs<T, MAX> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Pairs<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for V<T, MAX> {
            type Value = Pairs<T, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "an object of at most {MAX} members")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T, MAX>, A::Error> {
                let mut names = HashSet::new();
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if pairs.len() == MAX {
                        return Err(de::Error::invalid_length(MAX + 1, &self));
                    }
                    pairs.push((name.clone(), map.next_value()?));
                    if let Some(name) = names.replace(name) {
                        return Err(de::Error::custom(format!("the name {name:?} stands in the file twice")));
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(V(PhantomData))
    }
}
