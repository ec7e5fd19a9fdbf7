//! A whole training run: from where the last checkpoint stands to the end of the budget.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use meden_files::FileError;
use meden_kernels::Pool;
use meden_lens::capture::CaptureFile;
use meden_lens::place::Place;
use serde::Serialize;

use super::checkpoint;
use super::error::TrainError;
use super::recipe::Recipe;
use super::rows::{Batches, Dealt, Shape, survey};
use super::state::State;
use super::step::{Aux, gradients};

/// Steps between two checkpoints.
const CHECKPOINT: usize = 50;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Rows seen.
    pub rows: u64,
    /// Share of the batch's variance that is not explained.
    pub fvu: f64,
    /// Loss of the dead latents, without its weight.
    pub aux: f64,
    /// Active latents a row.
    pub l0: f64,
    /// Share of dead latents.
    pub dead: f64,
    /// Step size.
    pub rate: f64,
    /// Length of the gradient before clipping.
    pub gradient: f64,
}

/// What a long run is given by its caller.
pub struct Companions<'a> {
    /// Told of every step; may take its time, as one that waits for a quiet machine does.
    pub progress: &'a mut dyn FnMut(&Line),
    /// Set from outside to stop; a checkpoint is written first.
    pub cancel: &'a AtomicBool,
}

/// A trained state and what it was trained on.
pub struct Finished {
    /// The state.
    pub state: State,
    /// The rows.
    pub shape: Shape,
    /// Step that an earlier run had reached.
    pub resumed_at: usize,
}

/// Trains on the rows of a place in a file of activations. The folder gets `checkpoint.safetensors` and `log.jsonl`; the
/// same call again goes on behind the last checkpoint.
///
/// # Errors
/// Settings that make no sense; a checkpoint of another run; a loss that is no number; [`TrainError::Stopped`].
pub fn train(
    file: &CaptureFile,
    place: Place,
    recipe: &Recipe,
    (folder, pool): (&Path, &Pool),
    companions: &mut Companions<'_>,
) -> Result<Finished, TrainError> {
    let shape = survey(file, place, recipe.longest)?;
    recipe.check(shape.d)?;
    let steps = recipe.steps(shape.rows);
    let source = format!("{} {}", file.meta("prompts_sha256").unwrap_or(""), file.meta("model").unwrap_or(""));
    let path = folder.join("checkpoint.safetensors");
    let bound = (recipe, &shape, source.as_str());
    let found = checkpoint::read(&path, bound)?;
    let (mut state, at) = found.unwrap_or_else(|| (State::new(recipe, shape.mean.clone()), Dealt::default()));
    let resumed_at = state.step;
    let mut batches = Batches::new(file, (place, &shape), recipe, at)?;
    let mut log = open_log(&folder.join("log.jsonl"))?;
    let mut x = Vec::new();
    while state.step < steps {
        if companions.cancel.load(Ordering::Relaxed) {
            checkpoint::write(&path, (&state, batches.at()), bound)?;
            return Err(TrainError::Stopped { step: state.step, steps });
        }
        batches.deal(&mut x)?;
        let dead = state.dead(recipe.dead_after);
        let aux = Aux { dead: &dead, k: (shape.d / 2).max(1), weight: recipe.aux };
        let (measured, gradient) = gradients(&state.weights, &x, (recipe.k, aux), pool)?;
        let rate = recipe.rate_at(state.step, steps);
        if !measured.loss.is_finite() {
            return Err(TrainError::Diverged { step: state.step, loss: measured.loss, rate });
        }
        let rows = x.len() / shape.d;
        let length = state.apply((&measured, gradient), (recipe, rate), rows, pool);
        let line = Line {
            step: state.step,
            steps,
            rows: state.rows,
            fvu: measured.fvu,
            aux: measured.aux,
            l0: measured.l0,
            dead: dead.len() as f64 / recipe.width as f64,
            rate,
            gradient: length,
        };
        log_line(&mut log, &line, folder)?;
        (companions.progress)(&line);
        if state.step.is_multiple_of(CHECKPOINT) || state.step == steps {
            checkpoint::write(&path, (&state, batches.at()), bound)?;
        }
    }
    Ok(Finished { state, shape, resumed_at })
}

fn open_log(path: &Path) -> Result<std::fs::File, TrainError> {
    let open = std::fs::OpenOptions::new().create(true).append(true).open(path);
    Ok(open.map_err(|e| FileError::io(path, "open", e))?)
}

fn log_line(log: &mut std::fs::File, line: &Line, folder: &Path) -> Result<(), TrainError> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Ok(log.write_all(&text).map_err(|e| FileError::io(folder, "write the log", e))?)
}
