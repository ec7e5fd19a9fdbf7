//! The parts of a model that a lens applies by itself: the final norm, the unembedding, what a sublayer writes with.
//!
//! They run on the same kernels as the forward pass, so what a lens computes of the last residual stream has the bits of
//! the model's own logits.

use meden_kernels::ops;

use super::{Linear, Model};
use crate::error::EngineError;

/// The two halves of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sublayer {
    /// Attention: writes `z` through its output projection.
    Attention,
    /// Feed-forward: writes `mlp_act` through its down projection.
    Mlp,
}

/// How a sublayer writes into the residual stream: `norm(W x + b)`, without the norm in most families.
#[derive(Clone, Copy)]
pub struct OutputWeights<'a> {
    linear: &'a Linear,
    norm: Option<&'a [f32]>,
}

impl<'a> OutputWeights<'a> {
    /// Inputs of the projection: `q_heads * head_dim`, or `intermediate`.
    pub fn inputs(&self) -> usize {
        self.linear.weight.cols()
    }

    /// Weights of one channel of the stream, `(inputs)`, dequantised.
    ///
    /// # Panics
    /// If `channel` is no channel or `out` is not `inputs` long, as indexing a slice would.
    pub fn row(&self, channel: usize, out: &mut [f32]) {
        self.linear.weight.row(channel, out);
    }

    /// What is added to every row, `(hidden)`.
    pub fn bias(&self) -> Option<&'a [f32]> {
        self.linear.bias.as_deref()
    }

    /// Gain of the norm behind the projection, `(hidden)`; `None` in families without one.
    pub fn post_norm(&self) -> Option<&'a [f32]> {
        self.norm
    }
}

impl Model {
    /// The final norm of rows of the residual stream, `(rows, hidden)`, in place.
    ///
    /// # Panics
    /// If `rows` is no whole number of rows.
    pub fn apply_final_norm(&self, rows: &mut [f32]) {
        ops::rms_norm_inplace(self.pool(), self.isa(), rows, &self.final_norm, self.config.norm_eps);
    }

    /// Gain of the final norm, `(hidden)`, as it multiplies (gemma's `1 + weight` has been added).
    pub fn final_norm_gain(&self) -> &[f32] {
        &self.final_norm
    }

    /// Logits `(rows, vocab)` of rows that have gone through the final norm, `(rows, hidden)`; the soft cap of families
    /// that have one is included.
    ///
    /// # Errors
    /// `logits` has not `vocab` places for each row.
    pub fn unembed_rows(&self, normed: &[f32], logits: &mut [f32]) -> Result<(), EngineError> {
        self.unembed(normed, logits, &mut None)
    }

    /// Weights of one token's logit, `(hidden)`, dequantised.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn unembedding_row(&self, token: u32, out: &mut [f32]) -> Result<(), EngineError> {
        if token as usize >= self.config.vocab {
            return Err(EngineError::TokenId { id: token, vocab: self.config.vocab });
        }
        self.head.row(token as usize, out);
        Ok(())
    }

    /// How a sublayer of a layer writes into the stream.
    ///
    /// # Panics
    /// If there is no such layer, as indexing a slice would.
    pub fn output_weights(&self, layer: usize, sublayer: Sublayer) -> OutputWeights<'_> {
        let block = &self.blocks[layer];
        match sublayer {
            Sublayer::Attention => {
                OutputWeights { linear: &block.attention.o, norm: block.post_attention_norm.as_deref() }
            }
            Sublayer::Mlp => OutputWeights { linear: &block.mlp.down, norm: block.post_mlp_norm.as_deref() },
        }
    }
}
