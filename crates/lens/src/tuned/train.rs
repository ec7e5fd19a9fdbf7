//! Training a tuned lens by ridge regression.
//!
//! The reference descends the gradient of the divergence from the final distribution. Here each translator is solved for
//! in one step: the affine map of least squared distance to the last stream, each token weighted by the square of the
//! final norm's scale (the norm divides by it), shrunk towards the identity. That needs one reading of a text and no
//! gradient; how close the distributions come is measured on held-out text and reported.

use std::sync::OnceLock;

use meden_engine::press::linear::cholesky;
use meden_engine::{Control, EngineError, Model, Session, Site};
use meden_kernels::matmul::{Activations, Matrix, Needs, matmul};
use serde::Serialize;

use super::{Translator, TunedLens, unembedding_sha256};
use crate::capture::{Captured, Selection, capture};
use crate::companions::part;
use crate::error::LensError;
use crate::logit_lens::{LensOptions, LogitLens, norm_scale};
use crate::place::{Place, Positions};

/// How to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Strengths of the shrinkage that are tried, in units of the mean variance of a stream's channel; each translator
    /// takes the one with the least error on held-out text.
    pub ridges: Vec<f64>,
    /// Sequences of the end that are held out.
    pub held_out: usize,
    /// Held-out tokens on which distributions are compared.
    pub judged_tokens: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions { ridges: vec![1e-4, 1e-3, 1e-2, 1e-1], held_out: 1, judged_tokens: 256 }
    }
}

/// How a translator fits held-out text.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// Number of the translator: it reads what enters this layer.
    pub layer: usize,
    /// Shrinkage that was chosen; none where the identity was best.
    pub ridge: Option<f64>,
    /// Mean divergence of the logit lens from the final distribution, in nats.
    pub kl_logit_lens: f64,
    /// That of the tuned lens.
    pub kl_tuned: f64,
}

/// Weighted sums of a layer's regression of `y = last - h` on `h`.
struct Sums {
    weight: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    /// `(hidden, hidden)`
    xx: Vec<f64>,
    /// `(hidden of x, hidden of y)`
    xy: Vec<f64>,
}

/// Trains a lens on sequences, each read by itself. The first token of a sequence is left out: nothing stands before it,
/// and its stream is one of a kind. Memory: 16 x hidden² bytes a layer.
///
/// # Errors
/// Too few sequences, a ridge that is no positive number, sequences that the model refuses, cancellation.
pub fn train(
    session: &Session,
    sequences: &[Vec<u32>],
    options: &TrainOptions,
    control: &mut Control<'_>,
) -> Result<(TunedLens, Vec<Fit>), LensError> {
    let model = session.model();
    if options.held_out == 0 || sequences.len() <= options.held_out || sequences.iter().any(|s| s.len() < 2) {
        let why = format!(
            "sequences of at least 2 tokens, of which {} are held out and at least one is learnt from",
            options.held_out.max(1)
        );
        return Err(LensError::setting("training text", format!("{} sequences", sequences.len()), why));
    }
    if options.ridges.is_empty() || options.ridges.iter().any(|r| !(*r > 0.0 && r.is_finite())) {
        return Err(LensError::setting("ridge", format!("{:?}", options.ridges), "positive numbers"));
    }
    let (learn, judge) = sequences.split_at(sequences.len() - options.held_out);
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    // a token is read, and solved for
    let (mut done, total) = (0, 2 * tokens);
    let streams = Streams::of(model);
    let mut sums: Vec<Sums> = (0..model.config().layers).map(|_| Sums::new(model.config().hidden)).collect();
    for ids in learn {
        let rows = part(control, (done, total), |control| streams.read(session, ids, control))?;
        for (layer, sums) in sums.iter_mut().enumerate() {
            sums.add(model, streams.layer(&rows, layer), streams.last(&rows))?;
        }
        done += ids.len();
    }
    let mut held = Vec::new();
    for ids in judge {
        held.push(part(control, (done, total), |control| streams.read(session, ids, control))?);
        done += ids.len();
    }
    let mut translators = Vec::with_capacity(sums.len());
    let mut ridges = Vec::with_capacity(sums.len());
    for (layer, sums) in sums.iter().enumerate() {
        if control.cancelled() {
            return Err(EngineError::Cancelled { done, total, pressed_layers: 0 }.into());
        }
        let rows: Vec<_> = held.iter().map(|rows| (streams.layer(rows, layer), streams.last(rows))).collect();
        let (ridge, translator) = choose(model, sums, &rows, &options.ridges)?;
        translators.push(translator);
        ridges.push(ridge);
        done = tokens + tokens * (layer + 1) / model.config().layers;
        if let Some(progress) = control.progress.as_mut() {
            progress(done, total);
        }
    }
    let lens = TunedLens { translators, hidden: model.config().hidden, unembedding: Some(unembedding_sha256(model)) };
    let fits = compare(model, &lens, &held, options.judged_tokens)?;
    let fits = fits.into_iter().zip(ridges).map(|(fit, ridge)| Fit { ridge, ..fit }).collect();
    Ok((lens, fits))
}

/// What enters each layer, and the last stream.
struct Streams {
    selection: Selection,
    end: Place,
}

impl Streams {
    fn of(model: &Model) -> Streams {
        let layers = model.config().layers;
        let end = Place::new(Site::ResidPost, layers - 1);
        let mut places: Vec<Place> = (0..layers).map(|layer| Place::new(Site::ResidPre, layer)).collect();
        places.push(end);
        Streams { selection: Selection::new(places, Positions::All), end }
    }

    fn read(&self, session: &Session, ids: &[u32], control: &mut Control<'_>) -> Result<Captured, LensError> {
        capture(session, &[ids.to_vec()], &self.selection, control)
    }

    /// Rows of a layer but the first, `(tokens - 1, hidden)`.
    fn layer<'c>(&self, rows: &'c Captured, layer: usize) -> &'c [f32] {
        behind_the_first(rows, Place::new(Site::ResidPre, layer))
    }

    fn last<'c>(&self, rows: &'c Captured) -> &'c [f32] {
        behind_the_first(rows, self.end)
    }
}

fn behind_the_first(rows: &Captured, place: Place) -> &[f32] {
    let width = rows.width(place).unwrap_or(0);
    rows.matrix(place).map_or(&[], |m| &m[width.min(m.len())..])
}

impl Sums {
    fn new(hidden: usize) -> Sums {
        let zeros = |n: usize| vec![0.0; n];
        Sums { weight: 0.0, x: zeros(hidden), y: zeros(hidden), xx: zeros(hidden * hidden), xy: zeros(hidden * hidden) }
    }

    /// Adds rows `(tokens, hidden)`.
    fn add(&mut self, model: &Model, rows: &[f32], last: &[f32]) -> Result<(), LensError> {
        let hidden = self.x.len();
        let tokens = rows.len() / hidden;
        let eps = model.config().norm_eps;
        // rows times the root of their weight, as columns: (hidden, tokens)
        let (mut x, mut y) = (vec![0f32; rows.len()], vec![0f32; rows.len()]);
        for (t, (row, last)) in rows.chunks_exact(hidden).zip(last.chunks_exact(hidden)).enumerate() {
            let scale = norm_scale(last, eps);
            let weight = scale * scale;
            self.weight += weight;
            for (i, (&h, &l)) in row.iter().zip(last).enumerate() {
                let moved = f64::from(l) - f64::from(h);
                x[i * tokens + t] = (scale * f64::from(h)) as f32;
                y[i * tokens + t] = (scale * moved) as f32;
                self.x[i] += weight * f64::from(h);
                self.y[i] += weight * moved;
            }
        }
        let matrix = |values: &Vec<f32>| Matrix::from_f32(hidden, tokens, values.clone(), model.isa());
        let (x_matrix, y_matrix) = (matrix(&x).map_err(EngineError::from)?, matrix(&y).map_err(EngineError::from)?);
        let mut activations = Activations::new();
        activations.set_for(model.pool(), &x, tokens, model.isa(), Needs::of(&[&x_matrix]));
        let mut products = vec![0f32; hidden * hidden];
        for (matrix, sums) in [(&x_matrix, &mut self.xx), (&y_matrix, &mut self.xy)] {
            matmul(model.pool(), &activations, matrix, &mut products).map_err(EngineError::from)?;
            sums.iter_mut().zip(&products).for_each(|(sum, &p)| *sum += f64::from(p));
        }
        Ok(())
    }

    /// `(weight, bias)` of the ridge, or none where the sums are of too few tokens for it.
    fn solve(&self, ridge: f64) -> Option<(Vec<f32>, Vec<f32>)> {
        let n = self.x.len();
        let (mut xx, mut xy) = (self.xx.clone(), self.xy.clone());
        for i in 0..n {
            for j in 0..n {
                xx[i * n + j] -= self.x[i] * self.x[j] / self.weight;
                xy[i * n + j] -= self.x[i] * self.y[j] / self.weight;
            }
        }
        let mean = (0..n).map(|i| xx[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| xx[i * n + i] += ridge * mean);
        let l = cholesky(&xx, n)?;
        substitute(&l, &mut xy, n);
        // xy is now (inputs, outputs); the bias puts the mean right
        let mut weight = vec![0f32; n * n];
        let mut bias: Vec<f64> = self.y.iter().map(|y| y / self.weight).collect();
        for input in 0..n {
            let mean = self.x[input] / self.weight;
            for output in 0..n {
                let a = xy[input * n + output];
                weight[output * n + input] = a as f32;
                bias[output] -= a * mean;
            }
        }
        Some((weight, bias.into_iter().map(|b| b as f32).collect()))
    }
}

/// Solves `L Lᵀ X = B` in place for all columns of `B (n, n)`, a row at a time.
fn substitute(l: &[f64], b: &mut [f64], n: usize) {
    let take = |from: &[f64], to: &mut [f64], factor: f64| {
        to.iter_mut().zip(from).for_each(|(t, f)| *t -= factor * f);
    };
    for i in 0..n {
        let (before, rest) = b.split_at_mut(i * n);
        let row = &mut rest[..n];
        for k in 0..i {
            take(&before[k * n..(k + 1) * n], row, l[i * n + k]);
        }
        row.iter_mut().for_each(|v| *v /= l[i * n + i]);
    }
    for i in (0..n).rev() {
        let (before, rest) = b.split_at_mut(i * n);
        let row = &mut rest[..n];
        row.iter_mut().for_each(|v| *v /= l[i * n + i]);
        for k in 0..i {
            take(row, &mut before[k * n..(k + 1) * n], l[i * n + k]);
        }
    }
}

/// A matrix and what is added.
type Affine = (Vec<f32>, Vec<f32>);

/// The best ridge of a layer on held-out rows, each with the last stream's; the identity where none is better.
fn choose(
    model: &Model,
    sums: &Sums,
    held: &[(&[f32], &[f32])],
    ridges: &[f64],
) -> Result<(Option<f64>, Translator), LensError> {
    let hidden = model.config().hidden;
    let solved: Vec<OnceLock<Option<Affine>>> = ridges.iter().map(|_| OnceLock::new()).collect();
    model.pool().run(ridges.len(), &|i| {
        // each ridge is one task, so its place is empty
        let _ = solved[i].set(sums.solve(ridges[i]));
    });
    let mut best = (None, Translator { weight: None, bias: vec![0.0; hidden] });
    let mut least = weighted_error(model, held, &best.1)?;
    for (&ridge, solved) in ridges.iter().zip(solved) {
        let Some((weight, bias)) = solved.into_inner().flatten() else { continue };
        let translator = Translator::new(model.isa(), weight, bias)?;
        let error = weighted_error(model, held, &translator)?;
        if error < least {
            least = error;
            best = (Some(ridge), translator);
        }
    }
    Ok(best)
}

/// Squared distance of translated rows from the last stream's, each token by its weight.
fn weighted_error(model: &Model, held: &[(&[f32], &[f32])], translator: &Translator) -> Result<f64, LensError> {
    let hidden = translator.bias.len();
    let mut sum = 0.0;
    for (rows, last) in held {
        let moved = translator.apply(model, rows)?;
        for (moved, last) in moved.chunks_exact(hidden).zip(last.chunks_exact(hidden)) {
            let scale = norm_scale(last, model.config().norm_eps);
            let off = |(&m, &l): (&f32, &f32)| (f64::from(l) - f64::from(m)).powi(2);
            sum += scale * scale * moved.iter().zip(last).map(off).sum::<f64>();
        }
    }
    Ok(sum)
}

/// Mean divergences of both lenses on held-out rows.
fn compare(model: &Model, lens: &TunedLens, held: &[Captured], judged: usize) -> Result<Vec<Fit>, LensError> {
    let layers = model.config().layers;
    let places: Vec<Place> = (0..layers).map(|layer| Place::new(Site::ResidPre, layer)).collect();
    let mut sums = vec![[0.0f64; 2]; layers];
    let mut count = 0;
    for rows in held {
        let tokens = rows.rows().len();
        let taken = judged.saturating_sub(count).min(tokens - 1);
        if taken == 0 {
            break;
        }
        // the first token is not judged, since it is not learnt from
        let some = rows.slice(1..1 + taken);
        for (which, lens) in [LogitLens::new(model), LogitLens::tuned(model, lens)?].into_iter().enumerate() {
            let table = lens.table(&some, &places, &LensOptions::default())?;
            for (sums, readings) in sums.iter_mut().zip(&table.readings) {
                sums[which] += readings.iter().map(|r| r.from_final.kl).sum::<f64>();
            }
        }
        count += taken;
    }
    let mean = |sum: f64| sum / count.max(1) as f64;
    let fit = |(layer, [plain, tuned]): (usize, [f64; 2])| Fit {
        layer,
        ridge: None,
        kl_logit_lens: mean(plain),
        kl_tuned: mean(tuned),
    };
    Ok(sums.into_iter().enumerate().map(fit).collect())
}
