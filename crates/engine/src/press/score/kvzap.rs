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
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Data, DataFile, no_file};
use crate::press::linear::Trained;
use crate::press::spec::Build;
use crate::press::trained::{Nets, read_column, write_newest};
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

struct KvZapNets {
    nets: Nets<Steps, Vec<Trained>>,
    shape: Option<Shape>,
}

struct Ready {
    nets: Option<KvZapNets>,
}

impl Build for KvZap {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        Ok(Arc::new(Ready { nets: self.file.as_deref().map(load).transpose()? }))
    }
}

fn load(path: &Path) -> Result<KvZapNets, EngineError> {
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
    Ok(KvZapNets { nets: Nets::new(NAME, (path, &file), steps), shape })
}

impl KvZapNets {
    fn check(&self, c: &Config) -> Result<(), EngineError> {
        let layers = self.nets.layers_of(c)?;
        for steps in layers {
            let mut inputs = c.hidden;
            for (at, (weight, bias)) in steps.iter().enumerate() {
                let outputs =
                    if at + 1 == steps.len() { c.kv_heads } else { weight.shape.first().copied().unwrap_or(0) };
                weight.expect(NAME, &[outputs, inputs], "(kv heads or hidden layer, hidden size)")?;
                bias.expect(NAME, &[outputs], "(outputs)")?;
                inputs = outputs;
            }
        }
        let Some(shape) = &self.shape else { return Ok(()) };
        let hidden = layers.first().filter(|s| s.len() == 2).and_then(|s| s[0].1.shape.first().copied());
        let wanted = (c.hidden, c.kv_heads, hidden, c.layers);
        if (shape.input_dim, shape.output_dim, shape.hidden_dim, shape.n_modules) != wanted {
            return Err(self.nets.refuse(format!(
                "the config.json beside {} says {shape:?}, the tensors say otherwise",
                self.nets.source()
            )));
        }
        Ok(())
    }

    /// Scores of some tokens, `(tokens, kv_heads)`.
    fn run(&self, piece: &Piece<'_>) -> Result<Vec<f32>, EngineError> {
        let of_step = |(weight, bias): &(Data, Data)| {
            let inputs = weight.shape.last().copied().unwrap_or(1).max(1);
            Trained::new(piece.model, &weight.values, &bias.values, inputs)
        };
        let net = self.nets.ready(piece.layer, |steps| steps.iter().map(of_step).collect())?;
        let mut rows = piece.hidden.to_vec();
        for (at, step) in net.iter().enumerate() {
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
    fn nets(&self) -> Result<&KvZapNets, EngineError> {
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
        self.nets()?.nets.fits(model)
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        write_newest(&self.nets()?.run(piece)?, NAME, cache);
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        read_column(NAME, layer, scores)
    }
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
