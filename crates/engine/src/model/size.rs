//! How many bytes weights take, in files, while they are loaded and after, and how many a token reads.

use meden_files::{ModelFiles, TensorInfo, names};
use meden_kernels::matmul::Matrix;
use meden_kernels::pool::Pool;

use super::load::outline;
use super::{Block, Linear, LoadOptions, Model, WeightMode};

impl Model {
    /// Bytes of weights that one decoded token reads: every matrix of every layer and the output matrix, as stored.
    pub fn weight_bytes_a_token(&self) -> usize {
        self.blocks.iter().flat_map(Block::matrices).map(Matrix::data_bytes).sum::<usize>() + self.head.data_bytes()
    }
}

impl Block {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let (a, m) = (&self.attention, &self.mlp);
        [&a.q, &a.k, &a.v, &a.o, &m.gate, &m.up, &m.down].into_iter().map(|linear| &linear.weight)
    }

    /// Bytes that the layer keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let linear = |l: &Linear| l.weight.bytes() + l.bias.as_ref().map_or(0, |b| b.len() * 4);
        let a = &self.attention;
        let m = &self.mlp;
        let norms = self.attention_norm.len() + self.mlp_norm.len();
        [&a.q, &a.k, &a.v, &a.o, &m.gate, &m.up, &m.down].map(linear).iter().sum::<usize>() + norms * 4
    }
}

/// Peak bytes of loading: what stays, and what is being converted: the largest tensor, or one of a layer a thread.
pub(crate) fn bytes_needed(files: &ModelFiles, options: &LoadOptions) -> u64 {
    let outline = outline(files);
    let held = |t: &TensorInfo| -> u64 {
        let values: usize = t.shape.iter().product();
        if let Some(recipe) = options.quantize {
            let dtype = recipe.choose(outline, &names::to_gguf(files.architecture(), &t.name), &t.shape).dtype;
            return (values / dtype.block_len() * dtype.block_bytes()) as u64;
        }
        match options.weights {
            WeightMode::Native => t.bytes as u64,
            WeightMode::F32 => 4 * values as u64,
            WeightMode::Mapped => 0,
        }
    };
    let total: u64 = files.tensors().map(&held).sum();
    let largest = |in_layer: bool| {
        let tensors = files.tensors().filter(|t| !in_layer || t.name.starts_with("model.layers."));
        tensors.map(|t| t.bytes as u64).max().unwrap_or(0)
    };
    let threads = if options.threads == 0 { Pool::default_threads() } else { options.threads };
    total + largest(false).max(largest(true) * threads as u64)
}

/// Bytes of the tensors that a model is made of: a tied output matrix and the frequencies of old files are not read.
pub(super) fn bytes_read(files: &ModelFiles) -> u64 {
    let tied = files.config().is_some_and(|c| c.tie_word_embeddings == Some(true));
    let read = |t: &&TensorInfo| !(tied && t.name == "lm_head.weight" || t.name.ends_with("rotary_emb.inv_freq"));
    files.tensors().filter(read).map(|t| t.bytes as u64).sum()
}
