//! A state on disk.

use std::path::Path;

use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::DType;
use meden_kernels::weights::dequantize;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::recipe::Recipe;
use super::rows::{Dealt, Shape};
use super::state::State;
use super::step::{Gradients, Weights};

/// What has to be the same for a run to go on, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    recipe: Recipe,
    shape: Shape,
    source: String,
    at: Dealt,
    step: usize,
    rows: u64,
    threshold: f64,
}

fn bytes(values: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Writes everything; the file is there whole or not at all.
pub(super) fn write(
    path: &Path,
    (state, at): (&State, Dealt),
    (recipe, shape, source): (&Recipe, &Shape, &str),
) -> Result<(), TrainError> {
    let head = Head {
        recipe: recipe.clone(),
        shape: shape.clone(),
        source: source.to_owned(),
        at,
        step: state.step,
        rows: state.rows,
        threshold: state.threshold,
    };
    let (d, n) = (state.weights.d, state.weights.width);
    let head = serde_json::to_string(&head).unwrap_or_default();
    let mut file = SafetensorsWriter::new().meta("format", "meden-sae-checkpoint").meta("state", &head);
    let w = &state.weights;
    let lists = [
        ("weights", &w.encoder, &w.decoder, &w.b_enc, &w.b_dec),
        ("first", &state.first.encoder, &state.first.decoder, &state.first.b_enc, &state.first.b_dec),
        ("second", &state.second.encoder, &state.second.decoder, &state.second.b_enc, &state.second.b_dec),
    ];
    for (name, encoder, decoder, b_enc, b_dec) in lists {
        file = file
            .tensor(&format!("{name}.encoder"), DType::F32, &[n, d], bytes(encoder))
            .tensor(&format!("{name}.decoder"), DType::F32, &[n, d], bytes(decoder))
            .tensor(&format!("{name}.b_enc"), DType::F32, &[n], bytes(b_enc))
            .tensor(&format!("{name}.b_dec"), DType::F32, &[d], bytes(b_dec));
    }
    let age: Vec<f32> = state.age.iter().map(|&a| a as f32).collect();
    Ok(file.tensor("age", DType::F32, &[n], bytes(&age)).write(path)?)
}

/// Reads a state back; `None` where there is none yet.
///
/// # Errors
/// A file of another run.
pub(super) fn read(
    path: &Path,
    (recipe, shape, source): (&Recipe, &Shape, &str),
) -> Result<Option<(State, Dealt)>, TrainError> {
    if !path.exists() {
        return Ok(None);
    }
    let unfit = |why: &str| TrainError::Unfit { path: path.to_owned(), why: why.to_owned() };
    let file = Safetensors::open(path)?;
    let head = file.metadata().iter().find(|(key, _)| key == "state").map(|(_, value)| value.as_str());
    let head = head.ok_or_else(|| unfit("no checkpoint of this program: move it away"))?;
    let head: Head = serde_json::from_str(head).map_err(|_| unfit("its head cannot be read: move it away"))?;
    let same = &head.recipe == recipe && head.shape.rows == shape.rows && head.shape.d == shape.d;
    if !same || head.source != source {
        return Err(unfit("it is of another recipe or other rows: use another folder, or move it away to begin anew"));
    }
    let (d, n) = (shape.d, recipe.width);
    let list = |name: &str, want: usize| -> Result<Vec<f32>, TrainError> {
        let info = file.tensor(name)?;
        let mut values = vec![0f32; info.elements()];
        dequantize(info.dtype, &file.read(info)?, &mut values)?;
        if values.len() != want {
            return Err(unfit("its tensors have other sizes than its recipe: move it away"));
        }
        Ok(values)
    };
    let lists = |name: &str| -> Result<Gradients, TrainError> {
        Ok(Gradients {
            encoder: list(&format!("{name}.encoder"), n * d)?,
            decoder: list(&format!("{name}.decoder"), n * d)?,
            b_enc: list(&format!("{name}.b_enc"), n)?,
            b_dec: list(&format!("{name}.b_dec"), d)?,
        })
    };
    let w = lists("weights")?;
    let state = State {
        weights: Weights { d, width: n, encoder: w.encoder, decoder: w.decoder, b_enc: w.b_enc, b_dec: w.b_dec },
        first: lists("first")?,
        second: lists("second")?,
        age: list("age", n)?.into_iter().map(|a| a as u32).collect(),
        step: head.step,
        rows: head.rows,
        threshold: head.threshold,
    };
    Ok(Some((state, head.at)))
}
