//! A loaded model: weights, thread pool, and nothing that changes while it runs.

mod attend;
mod attention;
pub mod config;
mod config_gguf;
mod config_hf;
pub(crate) mod forward;
mod load;
mod parts;
mod quantizing;
pub mod rope;
mod size;
mod watch;

use std::sync::Arc;

use meden_files::ModelFiles;
use meden_files::quantize::{Clamped, Recipe, Substitutes};
use meden_kernels::isa::Isa;
use meden_kernels::matmul::Matrix;
use meden_kernels::pool::Pool;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use config::Config;

pub use parts::{OutputWeights, Sublayer};
pub use watch::LoadWatch;

/// How weights are held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightMode {
    /// As the file has them, in the layout the kernels like best.
    #[default]
    Native,
    /// Dequantised to f32: the reference path, four bytes a weight.
    F32,
    /// Mapped from the file, which must not change while the model is in use: the least memory.
    Mapped,
}

impl std::str::FromStr for WeightMode {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "native" => Ok(WeightMode::Native),
            "f32" => Ok(WeightMode::F32),
            "mapped" => Ok(WeightMode::Mapped),
            _ => Err(EngineError::Setting {
                field: "weight mode",
                value: text.to_string(),
                allowed: "native (the default), f32 (reference) or mapped (least memory)".to_string(),
            }),
        }
    }
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Threads, 0 for one a physical core that the process may use.
    pub threads: usize,
    /// How weights are held.
    pub weights: WeightMode,
    /// Instruction set, `None` for the best of this processor.
    pub isa: Option<Isa>,
    /// Quantise matrices while they are loaded, `None` to keep the file's formats.
    pub quantize: Option<Recipe>,
}

/// A matrix and the bias that some families add.
pub(crate) struct Linear {
    pub weight: Matrix,
    pub bias: Option<Vec<f32>>,
}

/// Queries, keys and values, their norms, and the way out.
pub(crate) struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
}

/// The gated feed-forward: `down(act(gate(x)) * up(x))`.
pub(crate) struct Mlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// One layer. Post norms stand between a sublayer and its residual addition (gemma).
pub(crate) struct Block {
    pub attention_norm: Vec<f32>,
    pub attention: Attention,
    pub post_attention_norm: Option<Vec<f32>>,
    pub mlp_norm: Vec<f32>,
    pub mlp: Mlp,
    pub post_mlp_norm: Option<Vec<f32>>,
}

/// A model ready to run. Sessions share it through an [`Arc`].
pub struct Model {
    pub(crate) config: Config,
    pub(crate) embedding: Arc<Matrix>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Arc<Matrix>,
    pool: Pool,
    isa: Isa,
    fingerprint: [u8; 32],
    weight_bytes: usize,
    substitutes: Substitutes,
    clamped: Clamped,
}

impl Model {
    /// Load a model. Weights are read tensor by tensor, so the peak is the model plus its largest tensor.
    ///
    /// Errors: missing or misshapen tensors, unsupported types, a file that shrinks while it is read.
    pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<Model>, EngineError> {
        Model::load_watched(files, options, LoadWatch::default())
    }

    /// The same for a model whose loading takes a while: it tells how far it is, and stops when asked to
    /// ([`EngineError::LoadCancelled`]; nothing is left behind).
    pub fn load_watched(
        files: &ModelFiles,
        options: &LoadOptions,
        watch: LoadWatch<'_>,
    ) -> Result<Arc<Model>, EngineError> {
        load::load(files, options, watch).map(Arc::new)
    }

    /// Bytes that loading will need at its peak, before anything is read.
    pub fn bytes_needed(files: &ModelFiles, options: &LoadOptions) -> u64 {
        size::bytes_needed(files, options)
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The threads that do the work.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of all weights as they are held.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Tensors that were quantised to another format than was asked for, because of their shape.
    pub fn substitutes(&self) -> &Substitutes {
        &self.substitutes
    }

    /// Values that were lost because the formats they were quantised to cannot hold them.
    pub fn clamped(&self) -> &Clamped {
        &self.clamped
    }

    /// Identity of the files the model came from; saved sessions are bound to it.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.config).field("isa", &self.isa).finish_non_exhaustive()
    }
}
