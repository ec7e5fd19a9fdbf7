//! Reading a file of activations back.

use std::ops::Range;
use std::path::{Path, PathBuf};

use meden_files::safetensors_file::Safetensors;
use meden_kernels::weights::dequantize;
use serde_json::{Map, Value};

use super::layout::{FORMAT, INDEX, VERSION, read_mark};
use super::{Captured, RowOf};
use crate::error::LensError;
use crate::place::Place;

/// An open file of activations; rows are read when they are asked for.
#[derive(Debug)]
pub struct CaptureFile {
    path: PathBuf,
    file: Safetensors,
    places: Vec<Place>,
    rows: Vec<RowOf>,
}

impl CaptureFile {
    /// Opens a file that [`capture_to_file`](super::capture_to_file) wrote.
    ///
    /// # Errors
    /// A file that is none, that is not whole, or of another version.
    pub fn open(path: &Path) -> Result<CaptureFile, LensError> {
        let unfit = |why: String| LensError::Unfit { path: path.to_owned(), why };
        let file = Safetensors::open(path)?;
        let of = |key: &str| file.metadata().iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if of("format") != Some(FORMAT) {
            return Err(unfit("no file of activations: make one with `meden lens capture`".into()));
        }
        if of("version") != Some(VERSION) {
            return Err(unfit("written by another version: capture it again".into()));
        }
        let number = |key: &str| of(key).and_then(|v| v.parse::<usize>().ok());
        let (Some(layers), Some(prompts)) = (number("layers"), number("prompts")) else {
            return Err(unfit("its head lacks the number of layers or prompts: capture it again".into()));
        };
        let done = of("done").and_then(read_mark).map(|(prompts, _)| prompts);
        if done != Some(prompts) {
            let done = done.unwrap_or(0);
            return Err(unfit(format!("only {done} of {prompts} prompts are in it: run the same capture to its end")));
        }
        let mut columns = Vec::new();
        for name in INDEX {
            columns.push(file.read_integers(name)?.1);
        }
        let rows = columns[0].iter().zip(&columns[1]).zip(&columns[2]);
        let rows = rows.map(|((&prompt, &position), &id)| RowOf {
            prompt: prompt as usize,
            position: position as usize,
            id: id as u32,
        });
        let rows: Vec<RowOf> = rows.collect();
        let mut places: Vec<Place> = file.tensors().iter().filter_map(|t| Place::read(&t.name, layers)).collect();
        places.sort_unstable();
        if file.tensors().iter().any(|t| t.shape.first() != Some(&rows.len()) || t.shape.len() != 2) {
            return Err(unfit("its tensors have other numbers of rows than its index: capture it again".into()));
        }
        Ok(CaptureFile { path: path.to_owned(), file, places, rows })
    }

    /// Places that are in it.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Where each row comes from; the same for every place.
    pub fn rows(&self) -> &[RowOf] {
        &self.rows
    }

    /// Rows of each place.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prompts that were captured.
    pub fn prompts(&self) -> usize {
        self.meta("prompts").and_then(|p| p.parse().ok()).unwrap_or(0)
    }

    /// What the head says about a key: `model` (fingerprint), `architecture`, `positions`, `dtype`, `session`, …
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.file.metadata().iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Values of a row of a place; `None` for a place that is not in it.
    pub fn width(&self, place: Place) -> Option<usize> {
        self.file.tensor(&place.to_string()).ok().map(|t| t.shape[1])
    }

    /// Some rows of a place, `(rows, width)`, in f32.
    ///
    /// # Errors
    /// A place that is not in it, rows that it does not have, a file that has become shorter.
    pub fn read(&self, place: Place, rows: Range<usize>) -> Result<Vec<f32>, LensError> {
        let tensor = self.file.tensor(&place.to_string())?;
        let bytes = self.file.read_rows(tensor, rows.clone())?;
        let mut values = vec![0f32; rows.len() * tensor.shape[1]];
        dequantize(tensor.dtype, &bytes, &mut values).map_err(meden_engine::EngineError::from)?;
        Ok(values)
    }

    /// All rows of some places in memory.
    ///
    /// # Errors
    /// As [`read`](CaptureFile::read).
    pub fn load(&self, places: &[Place]) -> Result<Captured, LensError> {
        let mut places = places.to_vec();
        places.sort_unstable();
        places.dedup();
        let mut values = Vec::with_capacity(places.len());
        for &place in &places {
            values.push(self.read(place, 0..self.len())?);
        }
        let widths = places.iter().map(|&place| self.width(place).unwrap_or(0)).collect();
        Ok(Captured { places, widths, values, rows: self.rows.clone() })
    }

    /// Path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is it what this head would have been written for?
    pub(super) fn is_of(&self, metadata: &Map<String, Value>) -> bool {
        let told = self.file.metadata().iter().filter(|(key, _)| key != "done");
        told.clone().count() == metadata.len()
            && told.into_iter().all(|(key, value)| metadata.get(key).and_then(Value::as_str) == Some(value))
    }
}
