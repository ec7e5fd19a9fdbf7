//! The shape of a language model, whichever file it came from.
//!
//! One struct serves all families: they differ in a handful of plain fields (norms after sublayers, a norm on queries
//! and keys, soft caps, windows, how positions rotate), and the forward pass reads those fields.

use meden_files::ModelFiles;
use serde::Serialize;

use super::rope::RopeSpec;
use crate::error::EngineError;

/// Activation of the gated feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// How one layer attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LayerAttention {
    /// Sliding window in tokens: a key is visible while `query - key < window`. `None` sees everything.
    pub window: Option<u32>,
    /// Which of [`Config::ropes`] turns its queries and keys.
    pub rope: usize,
}

/// Everything the forward pass has to know.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3" or "phi3".
    pub architecture: String,
    /// Vocabulary size.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key-value heads; each serves `q_heads / kv_heads` query heads in a row.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Longest sequence the model was trained for, in tokens.
    pub context: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Activation of the gated feed-forward.
    pub activation: Activation,
    /// Factor on query-key products.
    pub attention_scale: f32,
    /// cap * tanh(x / cap) on attention logits.
    pub attention_softcap: Option<f32>,
    /// cap * tanh(x / cap) on the output logits.
    pub final_softcap: Option<f32>,
    /// Factor on token embeddings.
    pub embedding_scale: f32,
    /// The file's norm weights lack the +1 that the model adds (gemma in safetensors).
    #[serde(skip)]
    pub norm_plus_one: bool,
    /// Rows of Q and K are stored for interleaved rotation (llama and mistral in GGUF) and are put back at load.
    #[serde(skip)]
    pub interleaved_qk: bool,
    /// Norms after attention and feed-forward, before their residual additions (gemma).
    pub post_norms: bool,
    /// An RMS norm on each head's queries and keys (qwen3, gemma3).
    pub qk_norm: bool,
    /// Each layer's window and rotation.
    pub attention: Vec<LayerAttention>,
    /// Rotations in use.
    #[serde(skip)]
    pub ropes: Vec<RopeSpec>,
}

impl Config {
    /// Read the configuration of a model's files.
    ///
    /// Errors: a field that is missing, of another type, or describes something the engine does not run.
    pub fn read(files: &ModelFiles) -> Result<Config, EngineError> {
        let config = match (files.gguf(), files.config()) {
            (Some(gguf), _) => super::config_gguf::read(gguf, files)?,
            (None, Some(config)) => super::config_hf::read(config)?,
            (None, None) => {
                return Err(EngineError::Config {
                    field: "config.json".into(),
                    why: "the weights come without one; put the model's config.json beside them".into(),
                });
            }
        };
        config.check()?;
        Ok(config)
    }

    /// Query heads that share one kv head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    fn check(&self) -> Result<(), EngineError> {
        let refuse = |field: &str, why: String| Err(EngineError::Config { field: field.into(), why });
        for (field, value) in [
            ("hidden size", self.hidden),
            ("feed-forward length", self.intermediate),
            ("layer count", self.layers),
            ("head count", self.q_heads),
            ("kv head count", self.kv_heads),
            ("head size", self.head_dim),
            ("context length", self.context),
        ] {
            if value == 0 || value > 1 << 30 {
                return refuse(field, format!("{value} is out of range"));
            }
        }
        if !self.q_heads.is_multiple_of(self.kv_heads) {
            return refuse(
                "kv head count",
                format!("{} query heads are no multiple of {} kv heads", self.q_heads, self.kv_heads),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head size", format!("{} is odd, so it cannot be rotated in pairs", self.head_dim));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return refuse("norm epsilon", format!("{} is not between 0 and 1", self.norm_eps));
        }
        if !(self.attention_scale.is_finite() && self.attention_scale > 0.0) {
            return refuse("attention scale", format!("{} is not a positive number", self.attention_scale));
        }
        Ok(())
    }
}

/// 5 sliding layers, then one that sees everything (gemma3).
pub(crate) const GEMMA3_PATTERN: usize = 6;
/// A sliding layer, then one that sees everything (gemma2).
pub(crate) const GEMMA2_PATTERN: usize = 2;

/// Does layer `layer` slide, when every `pattern`-th layer sees everything?
pub(crate) fn slides(layer: usize, pattern: usize) -> bool {
    !(layer + 1).is_multiple_of(pattern)
}
