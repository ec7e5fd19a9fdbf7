//! Keep what a small trained net expects KVzip+ to keep.
//!
//! Jégou & Jeblick, "KVzap: Fast, Adaptive, and Faithful KV Cache Pruning", arXiv 2601.07891. One net a layer turns
//! what the attention block reads (after its input norm) into one score a kv head, the logarithm of the KVzip+ score;
//! it is worked out once, when the token is read, so it serves prefill and decode alike, with a budget or a threshold.
//!
//! The file is the published one: `layers.i.weight` `(kv_heads, hidden)` and `layers.i.bias`, or with a hidden layer
//! and an exact GELU between `layers.i.0.weight`, `layers.i.0.bias`, `layers.i.2.weight`, `layers.i.2.bias`; a
//! `config.json` beside it, where there is one, has to agree. `meden kv calibrate` makes the linear one for any model.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Calibrated, Data, DataFile, no_file};
use crate::press::linear::Trained;
use crate::press::spec::Build;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

const NAME: &str = "kvzap";

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvZap {
    /// The file with the nets.
    pub file: Option<PathBuf>,
}

/// What a published `config.json` says.
#[derive(Debug, Deserialize)]
struct Shape {
    input_dim: usize,
    output_dim: usize,
    hidden_dim: Option<usize>,
    n_modules: usize,
}

/// Weight and bias of each step of one net.
type Steps = Vec<(Data, Data)>;

struct Nets {
    steps: Vec<Steps>,
    shape: Option<Shape>,
    source: String,
    made_for: Calibrated,
    ready: OnceLock<Vec<Vec<Trained>>>,
}

struct Ready {
    nets: Option<Nets>,
}

impl Build for KvZap {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        Ok(Arc::new(Ready { nets: self.file.as_deref().map(load).transpose()? }))
    }
}

fn load(path: &Path) -> Result<Nets, EngineError> {
    let file = DataFile::open(path)?;
    let mut steps = Vec::new();
    loop {
        let layer = steps.len();
        let step = |prefix: String| -> Result<(Data, Data), EngineError> {
            Ok((file.read(NAME, &format!("{prefix}.weight"))?, file.read(NAME, &format!("{prefix}.bias"))?))
        };
        if file.has(&format!("layers.{layer}.0.weight")) {
            steps.push(vec![step(format!("layers.{layer}.0"))?, step(format!("layers.{layer}.2"))?]);
        } else if file.has(&format!("layers.{layer}.weight")) || layer == 0 {
            steps.push(vec![step(format!("layers.{layer}"))?]);
        } else {
            break;
        }
    }
    let config = path.with_file_name("config.json");
    let shape = match std::fs::read(&config) {
        // the config of something else (the model the file lies beside, say) has none of these fields
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(_) => None,
    };
    let source = path.display().to_string();
    Ok(Nets { steps, shape, source, made_for: file.calibrated(), ready: OnceLock::new() })
}

impl Nets {
    fn check(&self, c: &Config) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::Press { press: NAME.into(), why });
        if self.steps.len() != c.layers {
            return refuse(format!(
                "{} has nets for {} layers, this model has {}",
                self.source,
                self.steps.len(),
                c.layers
            ));
        }
        for steps in &self.steps {
            let mut inputs = c.hidden;
            for (at, (weight, bias)) in steps.iter().enumerate() {
                let outputs =
                    if at + 1 == steps.len() { c.kv_heads } else { weight.shape.first().copied().unwrap_or(0) };
                weight.expect(NAME, &[outputs, inputs], "(kv heads or hidden layer, hidden size)")?;
                bias.expect(NAME, &[outputs], "(outputs)")?;
                inputs = outputs;
            }
        }
        if let Some(shape) = &self.shape {
            let hidden = self.steps.first().filter(|s| s.len() == 2).and_then(|s| s[0].1.shape.first().copied());
            let wanted = (c.hidden, c.kv_heads, hidden, c.layers);
            if (shape.input_dim, shape.output_dim, shape.hidden_dim, shape.n_modules) != wanted {
                return refuse(format!(
                    "the config.json beside {} says {shape:?}, the tensors say otherwise",
                    self.source
                ));
            }
        }
        Ok(())
    }

    fn ready(&self, model: &Model) -> Result<&[Vec<Trained>], EngineError> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let of_step = |(weight, bias): &(Data, Data)| {
            Trained::new(model, &weight.values, &bias.values, weight.shape.last().copied().unwrap_or(1).max(1))
        };
        let of_net = |steps: &Steps| steps.iter().map(of_step).collect::<Result<Vec<Trained>, EngineError>>();
        let made = self.steps.iter().map(of_net).collect::<Result<Vec<_>, EngineError>>()?;
        Ok(self.ready.get_or_init(|| made))
    }

    /// Scores of some tokens, `(tokens, kv_heads)`.
    fn run(&self, piece: &Piece<'_>) -> Result<Vec<f32>, EngineError> {
        let layers = self.ready(piece.model)?;
        let mut rows = piece.hidden.to_vec();
        for (at, step) in layers[piece.layer].iter().enumerate() {
            if at > 0 {
                rows.iter_mut().for_each(|x| *x = gelu(*x));
            }
            rows = step.apply(piece.model, &rows)?;
        }
        Ok(rows)
    }
}

/// `x Φ(x)`, with the error function to 1.2e-7 (a Chebyshev fit of erfc; Numerical Recipes).
fn gelu(x: f32) -> f32 {
    let z = f64::from(x) / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z.abs());
    let terms = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let poly = terms.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let tail = t * (-z * z + poly).exp(); // erfc(|z|)
    let erf = if z >= 0.0 { 1.0 - tail } else { tail - 1.0 };
    (0.5 * f64::from(x) * (1.0 + erf)) as f32
}

impl Ready {
    fn nets(&self) -> Result<&Nets, EngineError> {
        let how = "the safetensors of a published KVzap, or one that `meden kv calibrate --press kvzap` makes";
        self.nets.as_ref().ok_or_else(|| no_file(NAME, how))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { hidden_states: true, data: true, ..Needs::default() }
    }

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        self.nets()?.check(config)
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.nets()?.made_for.fits(NAME, model)
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        write_newest(&self.nets()?.run(piece)?, NAME, cache);
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        read_column(NAME, layer, scores)
    }
}

/// Write scores `(tokens, kv_heads)` of the tokens just read into a column of each head.
pub(crate) fn write_newest(rows: &[f32], column: &'static str, cache: &mut LayerCache) {
    let kv_heads = cache.heads().len();
    let tokens = rows.len() / kv_heads.max(1);
    for (number, head) in cache.heads_mut().iter_mut().enumerate() {
        let first = head.len() - tokens;
        let scores = rows.iter().skip(number).step_by(kv_heads);
        head.column_mut(column)[first..].iter_mut().zip(scores).for_each(|(to, &from)| *to = from);
    }
}

/// Scores that were worked out when the tokens were read.
pub(crate) fn read_column(column: &'static str, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
    for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
        row.copy_from_slice(head.column(column).ok_or_else(|| layer.missing(column, "scores of its net"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::gelu;

    #[test]
    fn gelu_is_the_exact_one() {
        for (x, y) in [(0.0, 0.0), (1.0, 0.841_344_7), (-1.0, -0.158_655_25), (3.0, 2.995_950_3), (-5.0, -1.433e-6)] {
            assert!((gelu(x) - y).abs() < 1e-6, "{x}: {}", gelu(x));
        }
    }
}
