//! Keep what queries to come will meet in the frequency domain: for long chains of thought.
//!
//! "TriAttention: Efficient Long Reasoning with Trigonometric KV Compression", arXiv 2604.04921. Each pair of channels
//! is a complex number that rotation turns. With q̄_f the mean of the queries before rotation, m_f the mean of their
//! magnitudes, and k_f a key, the score of a key at position p for a query `o` tokens after the newest, at t + o, is
//! `sum_f |q̄_f||k_f| cos((t + o - p) w_f + arg q̄_f - arg k_f) + sum_f (m_f - |q̄_f|) |k_f|`, averaged over the offsets o
//! = 1, 2, 4, …, `2^16`. Scores of each query head are standardised over its slots, and the largest of a group counts.
//!
//! The first sum is the product of the key with the mean query under the mean rotation of those positions. Moments are
//! gathered while the text is read, or come from a file with `q_mean_real`, `q_mean_imag`, `q_abs_mean`, each `(layers,
//! q_heads, head_dim / 2)`. The published code never evicts prompt tokens; here the policy's sinks and recents say what
//! stays.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Calibrated, Data, DataFile};
use crate::press::rotation::{MeanRotation, rope};
use crate::press::spec::{Build, bad};
use crate::press::watch::{LayerState, Moments, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

const NAME: &str = "triattention";
/// Where the mean magnitudes are kept: the number of queries, then `(q_heads, head_dim / 2)`.
const MAGNITUDES: &str = "triattention/magnitudes";

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriAttention {
    /// The farthest offset is two to this power.
    pub offset_powers: u32,
    /// A file with moments of the queries; without one they are gathered from the text.
    pub file: Option<PathBuf>,
}

impl Default for TriAttention {
    fn default() -> Self {
        TriAttention { offset_powers: 16, file: None }
    }
}

struct Given {
    real: Data,
    imaginary: Data,
    magnitude: Data,
    made_for: Calibrated,
}

struct Ready {
    powers: u32,
    given: Option<Given>,
}

impl Build for TriAttention {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.offset_powers > 20 {
            return Err(bad(NAME, "offset_powers", self.offset_powers, "0 to 20"));
        }
        let load = |path: &PathBuf| -> Result<Given, EngineError> {
            let file = DataFile::open(path)?;
            Ok(Given {
                real: file.read(NAME, "q_mean_real")?,
                imaginary: file.read(NAME, "q_mean_imag")?,
                magnitude: file.read(NAME, "q_abs_mean")?,
                made_for: file.calibrated(),
            })
        };
        Ok(Arc::new(Ready { powers: self.offset_powers, given: self.file.as_ref().map(load).transpose()? }))
    }
}

/// What is known of a query head.
struct Queries {
    /// Mean before rotation, `(head_dim)`, pairs (i, i + pairs).
    mean: Vec<f64>,
    /// Mean magnitude of each pair.
    magnitude: Vec<f64>,
}

/// What a key is multiplied with.
struct Expected {
    /// The mean query at the positions to come, `(head_dim)`.
    mean: Vec<f64>,
    /// How much the magnitudes of the queries exceed that of their mean, by pair.
    rest: Vec<f64>,
}

impl Queries {
    fn turned(mut self, turn: &MeanRotation, factor: f64) -> Expected {
        let half = self.magnitude.len();
        let known = |f: usize| self.mean[f].hypot(self.mean[f + half]);
        let rest = self.magnitude.iter().enumerate().map(|(f, m)| factor * (m - known(f))).collect();
        turn.turn(&mut self.mean);
        Expected { mean: self.mean, rest }
    }
}

impl Expected {
    /// The expected logit of a cached key, without the attention's scale.
    fn logit(&self, key: &[f32]) -> f64 {
        let half = self.rest.len();
        let phase: f64 = key.iter().zip(&self.mean).map(|(&k, q)| f64::from(k) * q).sum();
        let magnitudes = (0..half).map(|f| f64::from(key[f]).hypot(f64::from(key[f + half])));
        phase + self.rest.iter().zip(magnitudes).map(|(rest, k)| rest * k).sum::<f64>()
    }
}

impl Ready {
    fn queries(&self, layer: &LayerView<'_>, moments: &Moments, q_head: usize) -> Result<Queries, EngineError> {
        let c = layer.config();
        let (dim, half) = (c.head_dim, c.head_dim / 2);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        if let Some(given) = &self.given {
            let at = layer.layer * c.q_heads + q_head;
            let mean = [wide(given.real.part(at, half)), wide(given.imaginary.part(at, half))].concat();
            return Ok(Queries { mean, magnitude: wide(given.magnitude.part(at, half)) });
        }
        let magnitudes =
            layer.state.named.get(MAGNITUDES).ok_or_else(|| layer.missing(NAME, "magnitudes of queries"))?;
        let magnitude = wide(&magnitudes[1 + q_head * half..1 + (q_head + 1) * half]);
        Ok(Queries { mean: moments.mean(q_head, dim), magnitude })
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        let gathered = self.given.is_none();
        Needs { keys: true, query_mean: gathered, data: !gathered, ..Needs::default() }
    }

    fn check(&self, c: &Config) -> Result<(), EngineError> {
        if let Some(spec) = c.ropes.iter().find(|spec| spec.rotated() != c.head_dim) {
            let why = format!("it reads pairs of channels, but {} of {} are rotated", spec.rotated(), c.head_dim);
            return Err(EngineError::Press { press: NAME.into(), why });
        }
        let Some(given) = &self.given else { return Ok(()) };
        for data in [&given.real, &given.imaginary, &given.magnitude] {
            data.expect(NAME, &[c.layers, c.q_heads, c.head_dim / 2], "(layers, query heads, half the head size)")?;
        }
        Ok(())
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.given.as_ref().map_or(Ok(()), |given| given.made_for.fits(NAME, model))
    }

    fn observe(&self, piece: &Piece<'_>, _: &mut LayerCache, state: &mut LayerState) -> Result<(), EngineError> {
        if self.given.is_some() {
            return Ok(());
        }
        let c = piece.model.config();
        let half = c.head_dim / 2;
        let means = state.named.entry(MAGNITUDES.into()).or_insert_with(|| vec![0.0; 1 + c.q_heads * half]);
        let tokens = piece.positions.len() as f32;
        means[0] += tokens;
        let share = tokens / means[0];
        for (at, mean) in means[1..].iter_mut().enumerate() {
            let (head, f) = (at / half, at % half);
            let rows = piece.q_unrotated.chunks_exact(c.q_heads * c.head_dim);
            let sum: f64 = rows
                .map(|row| {
                    let q = &row[head * c.head_dim..];
                    f64::from(q[f]).hypot(f64::from(q[f + half]))
                })
                .sum();
            *mean += ((sum / f64::from(tokens)) as f32 - *mean) * share;
        }
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let (dim, group) = (layer.config().head_dim, layer.group());
        let newest = layer.next.saturating_sub(1) as u32;
        let positions: Vec<u32> = (0..=self.powers).map(|power| newest + (1 << power)).collect();
        let turn = MeanRotation::of(layer, &positions);
        // keys carry the factor that some rotations put on queries and keys; the turned mean does too
        let factor = f64::from(rope(layer).attention_factor());
        let moments = layer.state.moments.beyond(0);
        let all: Vec<Expected> = (0..layer.config().q_heads)
            .map(|q_head| Ok(self.queries(layer, &moments, q_head)?.turned(&turn, factor)))
            .collect::<Result<_, EngineError>>()?;
        scores.each(layer, |number, head, row| {
            let keys = head.keys();
            row.fill(f32::NEG_INFINITY);
            for queries in &all[number * group..(number + 1) * group] {
                let mut of_head: Vec<f64> = keys.chunks_exact(dim).map(|key| queries.logit(key)).collect();
                standardise(&mut of_head);
                for (score, &one) in row.iter_mut().zip(&of_head) {
                    *score = if one.is_nan() { f32::NAN } else { score.max(one as f32) };
                }
            }
        });
        Ok(())
    }
}

/// Mean 0 and standard deviation 1; all zeros where the numbers are alike.
fn standardise(values: &mut [f64]) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let std = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
    values.iter_mut().for_each(|v| *v = if std > 1e-12 { (*v - mean) / std } else { *v - mean });
}
