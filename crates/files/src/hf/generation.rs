//! `generation_config.json`: how the model's makers would have it sampled, and what ends a text.

use serde::{Deserialize, Serialize};

use super::{Extra, TokenIds};

/// Mirrors the file; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// First token of a text.
    pub bos_token_id: Option<TokenIds>,
    /// Tokens that end a text.
    pub eos_token_id: Option<TokenIds>,
    /// Padding.
    pub pad_token_id: Option<TokenIds>,
    /// False means greedy.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f64>,
    /// Candidates kept, by rank.
    pub top_k: Option<u64>,
    /// Candidates kept, by summed probability.
    pub top_p: Option<f64>,
    /// Candidates kept, by share of the best one's probability.
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens that are there already.
    pub repetition_penalty: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl GenerationConfig {
    /// Ids that end a text; empty when the file names none.
    pub fn eos_ids(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::ids)
    }
}
