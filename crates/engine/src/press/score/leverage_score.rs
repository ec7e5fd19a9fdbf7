//! Keep keys of high statistical leverage, before rotation.
//!
//! Chari & Van Durme, "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage Scores",
//! arXiv 2507.08143. Keys without their rotation, centred, are sketched to `sketch_dimension` Gaussian directions; the
//! leverage of a row x of the sketch X is `xᵀ (XᵀX + 0.01 I)⁻¹ x`. Scores are standardised over the layer.

use std::path::Path;

use meden_files::safetensors_file::Safetensors;
use meden_stats::rng::Rng;
use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::linear::{cholesky, inverse_form};
use crate::press::rotation::unrotated_keys;
use crate::press::spec::{Build, TensorRef, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeverageScore {
    /// Directions of the sketch.
    pub sketch_dimension: usize,
    /// Seed of the sketch.
    pub seed: u64,
    /// Standard normal numbers to take instead, `(layers, kv_heads, head_dim, sketch)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sketch: Option<TensorRef>,
}

impl Default for LeverageScore {
    fn default() -> Self {
        LeverageScore { sketch_dimension: 48, seed: 0, sketch: None }
    }
}

/// Added to the diagonal, and multiplied by ten while the matrix is not positive definite.
const JITTER: f64 = 1e-2;
const TRIES: usize = 5;

/// The press with its sketch.
pub(crate) struct Ready {
    spec: LeverageScore,
    given: Option<Vec<f32>>,
}

impl LeverageScore {
    pub(crate) fn ready(&self) -> Result<Ready, EngineError> {
        if self.sketch_dimension == 0 {
            return Err(bad("leverage_score", "sketch_dimension", 0, "at least 1"));
        }
        let given = self.sketch.as_ref().map(|at| read(&at.file, &at.tensor)).transpose()?;
        Ok(Ready { spec: self.clone(), given })
    }
}

impl Build for LeverageScore {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        Ok(std::sync::Arc::new(self.ready()?))
    }
}

fn read(file: &Path, tensor: &str) -> Result<Vec<f32>, EngineError> {
    let file = Safetensors::open(file)?;
    let tensor = file.tensor(tensor)?;
    let mut values = vec![0f32; tensor.elements()];
    meden_kernels::weights::dequantize(tensor.dtype, &file.read(tensor)?, &mut values)?;
    Ok(values)
}

impl Ready {
    /// The directions of one head, `(head_dim, sketch)`.
    fn directions(&self, layer: &LayerView<'_>, head: usize) -> Result<Vec<f64>, EngineError> {
        let (dim, k) = (layer.config().head_dim, self.spec.sketch_dimension);
        let unit = 1.0 / (k as f64).sqrt();
        let place = layer.layer * layer.config().kv_heads + head;
        match &self.given {
            Some(all) => {
                let of_head = all.get(place * dim * k..(place + 1) * dim * k).ok_or_else(|| {
                    bad(
                        "leverage_score",
                        "sketch",
                        format!("{} numbers", all.len()),
                        "(layers, kv_heads, head_dim, sketch_dimension) numbers",
                    )
                })?;
                Ok(of_head.iter().map(|&x| f64::from(x) * unit).collect())
            }
            None => {
                let mut rng = Rng::new(self.spec.seed, place as u64);
                Ok((0..dim * k).map(|_| rng.normal() * unit).collect())
            }
        }
    }

    /// Leverage of every slot, standardised over the layer.
    pub(crate) fn leverage(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let directions: Vec<Vec<f64>> =
            (0..layer.heads.len()).map(|head| self.directions(layer, head)).collect::<Result<_, _>>()?;
        let k = self.spec.sketch_dimension;
        scores.each(layer, |number, head, row| {
            let sketched = sketch(layer, head, &directions[number], k);
            let mut gram = vec![0f64; k * k];
            for x in sketched.chunks_exact(k) {
                for i in 0..k {
                    let xi = x[i];
                    gram[i * k..i * k + i + 1].iter_mut().zip(x).for_each(|(g, xj)| *g += xi * xj);
                }
            }
            for i in 0..k {
                for j in 0..i {
                    gram[j * k + i] = gram[i * k + j];
                }
            }
            let mut jitter = JITTER;
            let factor = (0..TRIES).find_map(|_| {
                let mut matrix = gram.clone();
                (0..k).for_each(|i| matrix[i * k + i] += jitter);
                jitter *= 10.0;
                cholesky(&matrix, k)
            });
            for (score, x) in row.iter_mut().zip(sketched.chunks_exact(k)) {
                *score = match &factor {
                    Some(l) => inverse_form(l, &mut x.to_vec()).max(0.0) as f32,
                    None => f32::NAN, // refused by name and position when slots are chosen
                };
            }
        });
        scores.standardise();
        Ok(())
    }
}

/// Centred keys without rotation in the directions of the sketch, `(slots, k)`.
fn sketch(layer: &LayerView<'_>, head: &HeadCache, directions: &[f64], k: usize) -> Vec<f64> {
    let (keys, dim) = (unrotated_keys(layer, head), layer.config().head_dim);
    let mut mean = vec![0f64; dim];
    for key in keys.chunks_exact(dim) {
        mean.iter_mut().zip(key).for_each(|(m, &x)| *m += f64::from(x));
    }
    mean.iter_mut().for_each(|m| *m /= head.len().max(1) as f64);
    let mut out = vec![0f64; head.len() * k];
    for (x, key) in out.chunks_exact_mut(k).zip(keys.chunks_exact(dim)) {
        for ((&value, m), direction) in key.iter().zip(&mean).zip(directions.chunks_exact(k)) {
            let centred = f64::from(value) - m;
            x.iter_mut().zip(direction).for_each(|(x, d)| *x += centred * d);
        }
    }
    out
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "leverage_score"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.leverage(layer, scores)
    }
}
