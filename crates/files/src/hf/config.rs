//! `config.json`: the shape of a model.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Extra, Rope, RopeParameters, TokenIds};
use crate::error::FileError;
use crate::json;

/// Largest config.json that is read; real ones take a few kB.
const CONFIG_MAX: u64 = 4 << 20;

/// Mirrors config.json of llama, mistral, qwen2, qwen3, gemma2, gemma3 and phi3. Names are the file's;
/// what only some architectures have is optional. Lengths are in tokens, sizes in channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_text", "phi3".
    pub model_type: String,
    /// Class names of the transformers library.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key-value heads; absent means as many as query heads.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; absent means `hidden_size / num_attention_heads`.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Context length.
    #[serde(default)]
    pub max_position_embeddings: Option<usize>,
    /// Epsilon of the norms.
    #[serde(default)]
    pub rms_norm_eps: Option<f64>,
    /// Activation, most files: "silu".
    #[serde(default)]
    pub hidden_act: Option<String>,
    /// Activation, gemma: "gelu_pytorch_tanh".
    #[serde(default)]
    pub hidden_activation: Option<String>,
    /// Whether the output matrix is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: Option<bool>,
    /// Whether q, k, v and o have biases.
    #[serde(default)]
    pub attention_bias: Option<bool>,
    /// Whether the feed-forward matrices have biases.
    #[serde(default)]
    pub mlp_bias: Option<bool>,
    /// Base of the rotary frequencies (older spelling).
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// Rotary scaling (older spelling).
    #[serde(default)]
    pub rope_scaling: Option<Rope>,
    /// Base of the local layers, gemma3 (older spelling).
    #[serde(default)]
    pub rope_local_base_freq: Option<f64>,
    /// Rotary settings (newer spelling).
    #[serde(default)]
    pub rope_parameters: Option<RopeParameters>,
    /// Share of the head's channels that are rotated, phi3 (older spelling).
    #[serde(default)]
    pub partial_rotary_factor: Option<f64>,
    /// Context length before scaling, phi3.
    #[serde(default)]
    pub original_max_position_embeddings: Option<usize>,
    /// Width of the sliding window, null or absent for none.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// qwen2: the window is used only when this is true.
    #[serde(default)]
    pub use_sliding_window: Option<bool>,
    /// qwen2: the first layers that do not slide.
    #[serde(default)]
    pub max_window_layers: Option<usize>,
    /// gemma3: every n-th layer sees everything.
    #[serde(default)]
    pub sliding_window_pattern: Option<usize>,
    /// "full_attention" or "sliding_attention" for each layer.
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    /// gemma: the attention scale is one over the root of this.
    #[serde(default)]
    pub query_pre_attn_scalar: Option<f64>,
    /// gemma2: cap of the attention logits.
    #[serde(default)]
    pub attn_logit_softcapping: Option<f64>,
    /// gemma2: cap of the output logits.
    #[serde(default)]
    pub final_logit_softcapping: Option<f64>,
    /// First token of a text.
    #[serde(default)]
    pub bos_token_id: Option<TokenIds>,
    /// Tokens that end a text.
    #[serde(default)]
    pub eos_token_id: Option<TokenIds>,
    /// Padding.
    #[serde(default)]
    pub pad_token_id: Option<TokenIds>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// gemma3 files leave out whatever equals the default of the transformers library's `Gemma3TextConfig`.
const GEMMA3_DEFAULTS: &str = r#"{
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": true,
    "attention_bias": false
}"#;

impl Config {
    /// Reads config.json. A multimodal file's `text_config` is taken for the whole.
    pub fn open(path: &Path) -> Result<Config, FileError> {
        let whole: Extra = json::read(path, CONFIG_MAX)?;
        let fail = |source| FileError::Json { path: path.to_owned(), source };
        let text = flatten(whole).map_err(fail)?;
        let model_type = text.get("model_type").and_then(|v| v.as_str()).unwrap_or_default();
        if !crate::names::MODEL_TYPES.contains(&model_type) {
            return Err(FileError::NotAModel {
                path: path.to_owned(),
                problem: format!("model_type is {model_type:?}"),
                fix: format!("these are read: {}", crate::names::MODEL_TYPES.join(", ")),
            });
        }
        let config: Config = serde_json::from_value(serde_json::Value::Object(text)).map_err(fail)?;
        config.check(path)?;
        Ok(config)
    }

    /// The architecture under the name that Meden gives it: `gemma3_text` is "gemma3".
    pub fn architecture(&self) -> &str {
        match self.model_type.as_str() {
            "gemma3_text" => "gemma3",
            other => other,
        }
    }

    /// Ids that end a text; empty when the file names none.
    pub fn eos_ids(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::ids)
    }

    /// Rotary settings of layers of one type ("full_attention", "sliding_attention"), from whichever
    /// spelling the file uses. `rope_theta` is always there: 10,000 is the default of every class, but
    /// gemma3's layers that see everything, with 1,000,000.
    pub fn rope(&self, layer_type: &str) -> Rope {
        let local = layer_type == "sliding_attention" && self.architecture() == "gemma3";
        let mut rope = match &self.rope_parameters {
            Some(RopeParameters::Flat(rope)) => (**rope).clone(),
            Some(RopeParameters::PerLayerType(map)) => map.get(layer_type).cloned().unwrap_or_default(),
            // gemma3's scaling is for the layers that see everything.
            None if local => Rope { rope_theta: self.rope_local_base_freq, ..Rope::default() },
            None => Rope { rope_theta: self.rope_theta, ..self.rope_scaling.clone().unwrap_or_default() },
        };
        let global = self.architecture() == "gemma3" && !local;
        rope.rope_theta = rope.rope_theta.or(Some(if global { 1e6 } else { 1e4 }));
        rope.partial_rotary_factor = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        let original = self.original_max_position_embeddings.map(|n| n as u64);
        rope.original_max_position_embeddings = rope.original_max_position_embeddings.or(original);
        rope
    }

    /// Sizes have to be there and sane before anything is multiplied or allocated by them.
    fn check(&self, path: &Path) -> Result<(), FileError> {
        let sizes = [
            ("hidden_size", Some(self.hidden_size), 1 << 20),
            ("intermediate_size", Some(self.intermediate_size), 1 << 24),
            ("num_hidden_layers", Some(self.num_hidden_layers), 1 << 12),
            ("num_attention_heads", Some(self.num_attention_heads), 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 14),
            ("vocab_size", Some(self.vocab_size), 1 << 24),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ];
        for (field, value, limit) in sizes {
            match value {
                Some(0) => return Err(FileError::malformed(path, field, "it is 0")),
                Some(n) if n > limit => {
                    return Err(FileError::TooLarge {
                        path: path.to_owned(),
                        field: field.to_owned(),
                        value: n as u64,
                        limit: limit as u64,
                    });
                }
                _ => {}
            }
        }
        let kv = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        if !self.num_attention_heads.is_multiple_of(kv) {
            let problem = format!("{} query heads are no multiple of {kv}", self.num_attention_heads);
            return Err(FileError::malformed(path, "num_key_value_heads", problem));
        }
        if let Some(types) = self.layer_types.as_ref().filter(|t| t.len() != self.num_hidden_layers) {
            let problem = format!("it has {} entries for {} layers", types.len(), self.num_hidden_layers);
            return Err(FileError::malformed(path, "layer_types", problem));
        }
        Ok(())
    }
}

/// The text model's fields at the top: out of `text_config`, with gemma3's defaults filled in and the
/// name that newer files give the window's pattern set right.
fn flatten(mut whole: Extra) -> Result<Extra, serde_json::Error> {
    if let Some(serde_json::Value::Object(text)) = whole.shift_remove("text_config") {
        // What the text model does not say itself, the whole says for it (eos_token_id, …).
        let model_type = text.get("model_type").cloned();
        for (key, value) in text {
            whole.insert(key, value);
        }
        if let Some(model_type) = model_type {
            whole.insert("model_type".into(), model_type);
        }
    }
    if let Some(pattern) = whole.get("_sliding_window_pattern").cloned() {
        whole.entry("sliding_window_pattern").or_insert(pattern);
    }
    if whole.get("model_type").is_some_and(|t| t == "gemma3_text" || t == "gemma3") {
        let defaults: Extra = serde_json::from_str(GEMMA3_DEFAULTS)?;
        for (key, value) in defaults {
            whole.entry(key).or_insert(value);
        }
    }
    Ok(whole)
}
