//! Where each tensor of a file of activations lies, and the head that says so.
//!
//! The file is ordinary safetensors, laid out before the first row is known: the number of rows is, so every row has its
//! place and is written there as it passes. A mark of fixed width in the head says how far the file is filled.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::write::Dtype;
use crate::error::LensError;
use crate::place::Place;

/// The value of `format` in the head.
pub(super) const FORMAT: &str = "meden-capture";
/// Version of the layout.
pub(super) const VERSION: &str = "1";
/// Tensors that say where rows come from, in this order: `(rows)`, I32.
pub(super) const INDEX: [&str; 3] = ["prompt", "position", "token"];
/// The mark of an empty file; prompts and rows.
const NOTHING_DONE: &str = "0000000000/0000000000";

/// The head of a file and the places of its tensors.
pub(super) struct Layout {
    /// Length and JSON, as they begin the file.
    pub head: Vec<u8>,
    /// Where the mark lies.
    mark: u64,
    /// Where the tensors of [`INDEX`] begin.
    pub index: [u64; 3],
    /// Where the tensors of the places begin.
    pub tensors: Vec<u64>,
    /// Values of a row, one a place.
    pub widths: Vec<usize>,
    /// Bytes of a value.
    pub value: u64,
    /// Bytes of the file.
    pub len: u64,
}

impl Layout {
    /// A file of `rows` rows a place.
    pub(super) fn new(
        path: &Path,
        places: &[Place],
        widths: &[usize],
        (rows, dtype): (usize, Dtype),
        metadata: &Map<String, Value>,
    ) -> Result<Layout, LensError> {
        let too_large = || LensError::Unfit {
            path: path.to_owned(),
            why: format!("{rows} rows of {} places are more than a file can hold; capture fewer", places.len()),
        };
        let mut head = Map::new();
        let mut metadata = metadata.clone();
        metadata.insert("done".into(), NOTHING_DONE.into());
        head.insert("__metadata__".into(), Value::Object(metadata));
        let mut at = 0u64;
        let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: u64| {
            let start = at;
            let size = shape.iter().try_fold(bytes, |n, &d| n.checked_mul(d as u64));
            at = size.and_then(|size| at.checked_add(size)).filter(|&end| end < 1 << 62).ok_or_else(too_large)?;
            head.insert(name.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, at]}));
            Ok::<u64, LensError>(start)
        };
        let mut index = [0; 3];
        for (start, name) in index.iter_mut().zip(INDEX) {
            *start = add(name, "I32", &[rows], 4)?;
        }
        let mut tensors = Vec::with_capacity(places.len());
        for (place, &width) in places.iter().zip(widths) {
            tensors.push(add(&place.to_string(), dtype.safetensors(), &[rows, width], dtype.bytes())?);
        }
        let mut text = Value::Object(head).to_string();
        // spaces behind the JSON bring the data to a multiple of eight bytes
        let padded = text.len().next_multiple_of(8);
        text.extend(std::iter::repeat_n(' ', padded - text.len()));
        let data = 8 + text.len() as u64;
        let found = text.find(&format!("\"done\":\"{NOTHING_DONE}\"")).unwrap_or(0);
        let mark = 8 + (found + "\"done\":\"".len()) as u64;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        index.iter_mut().chain(&mut tensors).for_each(|start| *start += data);
        Ok(Layout { head: bytes, mark, index, tensors, widths: widths.to_vec(), value: dtype.bytes(), len: data + at })
    }

    /// Where a row of a place lies.
    pub(super) fn row(&self, place: usize, row: usize) -> u64 {
        self.tensors[place] + row as u64 * self.widths[place] as u64 * self.value
    }

    /// What to write where, when so many prompts and rows are done.
    pub(super) fn mark(&self, prompts: usize, rows: usize) -> (u64, String) {
        (self.mark, format!("{prompts:010}/{rows:010}"))
    }

    /// The same head with a mark in it.
    pub(super) fn marked_head(&self, prompts: usize, rows: usize) -> Vec<u8> {
        let (at, mark) = self.mark(prompts, rows);
        let mut head = self.head.clone();
        head[at as usize..at as usize + mark.len()].copy_from_slice(mark.as_bytes());
        head
    }
}

/// Prompts and rows of a mark.
pub(super) fn read_mark(text: &str) -> Option<(usize, usize)> {
    let (prompts, rows) = text.split_once('/')?;
    Some((prompts.parse().ok()?, rows.parse().ok()?))
}
