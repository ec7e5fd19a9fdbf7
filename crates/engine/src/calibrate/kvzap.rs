//! A linear KVzap (arXiv 2601.07891): ridge regression from what attention reads to the logarithm of the KVzip+ score.
//!
//! Each sequence is read once and repeated once; the sums of a layer take `hidden²` numbers.

use std::sync::{Arc, Mutex};

use meden_kernels::matmul::{Activations, Matrix, matmul};

use super::{Tensor, Texts};
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::press::linear::{cholesky, solve};
use crate::press::own::kvzip::KvZip;
use crate::press::spec::PressSpec;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};
use crate::session::Session;
use crate::session::control::Control;

/// Weight of the squared coefficients, as published.
const RIDGE: f64 = 1.0;
/// The logarithm of no attention at all would be minus infinity.
const LEAST: f32 = 1e-12;

/// What attention reads in each layer, `(tokens, hidden)`, for one sequence.
struct Hidden {
    layers: Mutex<Vec<Vec<f32>>>,
}

impl Press for Hidden {
    fn name(&self) -> &'static str {
        "kvzap"
    }

    fn needs(&self) -> Needs {
        Needs { hidden_states: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Err(layer.missing(self.name(), "score while it gathers"))
    }

    fn observe(&self, piece: &Piece<'_>, _: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        if let Ok(mut layers) = self.layers.lock() {
            layers[piece.layer].extend_from_slice(piece.hidden);
        }
        Ok(())
    }
}

/// Sums of a regression: inputs x `(hidden)`, targets y `(kv_heads)`.
#[derive(Clone)]
struct Sums {
    n: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    yy: Vec<f64>,
    /// `(hidden, hidden)`
    xx: Vec<f64>,
    /// `(kv_heads, hidden)`
    xy: Vec<f64>,
}

impl Sums {
    fn new(hidden: usize, heads: usize) -> Sums {
        let zeros = |n: usize| vec![0.0; n];
        Sums {
            n: 0.0,
            x: zeros(hidden),
            y: zeros(heads),
            yy: zeros(heads),
            xx: zeros(hidden * hidden),
            xy: zeros(heads * hidden),
        }
    }

    /// Add the tokens of a sequence: inputs `(tokens, hidden)`, targets a row a head.
    fn add(&mut self, model: &Model, inputs: &[f32], targets: &[Vec<f32>]) -> Result<(), EngineError> {
        let hidden = self.x.len();
        let tokens = inputs.len() / hidden;
        let mut columns = vec![0f32; inputs.len()]; // (hidden, tokens)
        for (t, row) in inputs.chunks_exact(hidden).enumerate() {
            row.iter().enumerate().for_each(|(i, &v)| columns[i * tokens + t] = v);
        }
        let mut activations = Activations::new();
        activations.set(model.pool(), &columns, tokens, model.isa());
        let mut products = vec![0f32; hidden * hidden];
        matmul(model.pool(), &activations, &Matrix::from_f32(hidden, tokens, &columns, model.isa())?, &mut products)?;
        self.xx.iter_mut().zip(&products).for_each(|(sum, &p)| *sum += f64::from(p));
        for (sum, column) in self.x.iter_mut().zip(columns.chunks_exact(tokens)) {
            *sum += column.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        for (head, targets) in targets.iter().enumerate() {
            for (&y, row) in targets.iter().zip(inputs.chunks_exact(hidden)) {
                let y = f64::from(y);
                self.y[head] += y;
                self.yy[head] += y * y;
                self.xy[head * hidden..(head + 1) * hidden]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, &x)| *sum += y * f64::from(x));
            }
        }
        self.n += tokens as f64;
        Ok(())
    }

    /// Weights `(kv_heads, hidden)`, biases, and the mean R² over the heads. The bias is not penalised.
    fn fit(mut self) -> Option<(Vec<f32>, Vec<f32>, f64)> {
        let (hidden, heads, n) = (self.x.len(), self.y.len(), self.n);
        let mean: Vec<f64> = self.x.iter().map(|s| s / n).collect();
        for i in 0..hidden {
            for j in 0..hidden {
                self.xx[i * hidden + j] -= n * mean[i] * mean[j];
            }
            self.xx[i * hidden + i] += RIDGE;
        }
        let factor = cholesky(&self.xx, hidden)?;
        let (mut weights, mut biases, mut fit) = (Vec::new(), Vec::new(), 0.0);
        for head in 0..heads {
            let y = self.y[head] / n;
            let mut centred: Vec<f64> =
                self.xy[head * hidden..(head + 1) * hidden].iter().zip(&mean).map(|(xy, m)| xy - n * m * y).collect();
            let right = centred.clone();
            solve(&factor, &mut centred);
            let w = centred;
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let spread = self.yy[head] - n * y * y;
            // |y - Xw|² = yy - 2 w.Xy + w.XXw, and (XX + ridge) w = Xy
            let rest = spread - dot(&w, &right) - RIDGE * dot(&w, &w);
            fit += (1.0 - rest / spread.max(1e-12)) / heads as f64;
            biases.push((y - dot(&w, &mean)) as f32);
            weights.extend(w.iter().map(|&w| w as f32));
        }
        Some((weights, biases, fit))
    }
}

/// Tensors in the published layout, and R² by layer.
pub(super) fn run(texts: &mut Texts<'_, '_>) -> Result<(Vec<Tensor>, Vec<f64>), EngineError> {
    let (model, c) = (texts.model.clone(), texts.model.config().clone());
    let mut sums = vec![Sums::new(c.hidden, c.kv_heads); c.layers];
    let hidden = Arc::new(Hidden { layers: Mutex::new(vec![Vec::new(); c.layers]) });
    let teacher = PressSpec::Kvzip(KvZip { plus: true, ..KvZip::default() });
    texts.read(&[hidden.clone() as Arc<dyn Press>], |session, control| {
        let labels = labels(session, &teacher, control)?;
        let mut layers = hidden.layers.lock().map_err(|_| EngineError::Poisoned)?;
        for ((inputs, sums), labels) in layers.iter_mut().zip(&mut sums).zip(&labels) {
            let inputs = std::mem::take(inputs);
            if !inputs.is_empty() {
                sums.add(&model, &inputs, labels)?;
            }
        }
        Ok(())
    })?;
    let (mut tensors, mut fits) = (Vec::new(), Vec::new());
    for (layer, sums) in sums.into_iter().enumerate() {
        let (weights, biases, fit) = if sums.n == 0.0 {
            (vec![0.0; c.kv_heads * c.hidden], vec![0.0; c.kv_heads], 0.0) // a sliding layer: no press acts there
        } else {
            sums.fit().ok_or_else(|| EngineError::Press {
                press: "kvzap".into(),
                why: format!("the regression of layer {layer} has no solution; give more text"),
            })?
        };
        tensors.push(Tensor {
            name: format!("layers.{layer}.weight"),
            shape: vec![c.kv_heads, c.hidden],
            values: weights,
        });
        tensors.push(Tensor { name: format!("layers.{layer}.bias"), shape: vec![c.kv_heads], values: biases });
        fits.push(fit);
    }
    Ok((tensors, fits))
}

/// The logarithm of the KVzip+ score of every token, by layer and head; nothing for sliding layers.
fn labels(
    session: &mut Session,
    teacher: &PressSpec,
    control: &mut Control<'_>,
) -> Result<Vec<Vec<Vec<f32>>>, EngineError> {
    session.replay(teacher, control)?;
    let policy = crate::Policy::new(teacher.clone(), crate::Budget::Ratio(0.5));
    let c = session.model().config().clone();
    let mut labels = Vec::with_capacity(c.layers);
    for layer in 0..c.layers {
        if c.attention[layer].window.is_some() {
            labels.push(Vec::new());
            continue;
        }
        let (scores, _) = session.press_scores(layer, &policy)?;
        labels.push(scores.rows().iter().map(|row| row.iter().map(|s| s.max(LEAST).ln()).collect()).collect());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn a_linear_relation_is_found_again() {
        let (hidden, n) = (3, 400);
        let x = |i: usize| [(i as f64 * 0.7).sin(), (i as f64 * 0.31).cos(), ((i * i) % 17) as f64 / 17.0];
        let mut sums = Sums::new(hidden, 1);
        for i in 0..n {
            let x = x(i);
            let y = 2.0 * x[0] - x[1] + 0.5 * x[2] + 3.0;
            sums.n += 1.0;
            sums.y[0] += y;
            sums.yy[0] += y * y;
            for a in 0..hidden {
                sums.x[a] += x[a];
                sums.xy[a] += y * x[a];
                (0..hidden).for_each(|b| sums.xx[a * hidden + b] += x[a] * x[b]);
            }
        }
        let (weights, biases, fit) = sums.fit().unwrap();
        for (w, want) in weights.iter().zip([2.0, -1.0, 0.5]) {
            assert!((w - want).abs() < 0.05, "{weights:?}");
        }
        assert!((biases[0] - 3.0).abs() < 0.05 && fit > 0.999, "{biases:?} {fit}");
    }
}
