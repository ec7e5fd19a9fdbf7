//! The one place that maps GGUF tensor names to Hugging Face names and back.
//!
//! Everything above this crate speaks Hugging Face names, because they are module paths. The same GGUF
//! word means different tensors in different architectures (`ffn_norm` is the norm before the
//! feed-forward layer, which gemma calls differently), so the architecture is part of the question.
//!
//! Two conventions travel with the names, see [`permuted_heads`] and [`norms_hold_plus_one`].

/// `model_type` values of config.json that are read.
pub const MODEL_TYPES: [&str; 8] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_text", "phi3"];

/// Whole names: GGUF, Hugging Face.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Inside a layer: GGUF, Hugging Face. Both keep their `.weight` or `.bias`.
const COMMON: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const PLAIN: [(&str, &str); 2] = [("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.up_proj")];
const PHI3: [(&str, &str); 3] =
    [("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.gate_up_proj"), ("attn_qkv", "self_attn.qkv_proj")];
const GEMMA: [(&str, &str); 4] = [
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_up", "mlp.up_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

fn special(architecture: &str) -> &'static [(&'static str, &'static str)] {
    match architecture {
        "gemma2" | "gemma3" => &GEMMA,
        "phi3" => &PHI3,
        _ => &PLAIN,
    }
}

/// Hugging Face name of a GGUF tensor; a name without counterpart (rope factors) stays as it is.
pub fn to_hugging_face(architecture: &str, gguf: &str) -> String {
    if let Some((_, hf)) = WHOLE.iter().find(|(g, _)| *g == gguf) {
        return (*hf).to_owned();
    }
    let split = gguf.strip_prefix("blk.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (word, kind) = rest.rsplit_once('.')?;
        let (_, hf) = COMMON.iter().chain(special(architecture)).find(|(g, _)| *g == word)?;
        is_number(layer).then(|| format!("model.layers.{layer}.{hf}.{kind}"))
    });
    split.unwrap_or_else(|| gguf.to_owned())
}

/// GGUF name of a Hugging Face tensor; a name without counterpart stays as it is.
pub fn to_gguf(architecture: &str, hf: &str) -> String {
    if let Some((gguf, _)) = WHOLE.iter().find(|(_, h)| *h == hf) {
        return (*gguf).to_owned();
    }
    let split = hf.strip_prefix("model.layers.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (word, kind) = rest.rsplit_once('.')?;
        let (gguf, _) = COMMON.iter().chain(special(architecture)).find(|(_, h)| *h == word)?;
        is_number(layer).then(|| format!("blk.{layer}.{gguf}.{kind}"))
    });
    split.unwrap_or_else(|| hf.to_owned())
}

/// The name inside the language model of a tensor of a multimodal checkpoint: `language_model.model.x`
/// and `model.language_model.x` are `model.x`.
pub(crate) fn without_wrapper(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("model.{rest}");
    }
    name.strip_prefix("language_model.").unwrap_or(name).to_owned()
}

/// Whether a GGUF file of this architecture has the rows of q and k reordered inside each head: the
/// converter turns llama's and mistral's two halves into neighbouring pairs, because its runtime
/// rotates neighbours. Row `2 i + j` of a head is row `i + j * head_dim / 2` of the original.
pub fn permuted_heads(architecture: &str) -> bool {
    matches!(architecture, "llama" | "mistral")
}

/// Whether a GGUF file of this architecture stores its norm weights with the 1 already added that gemma
/// adds when it multiplies; Hugging Face files store them without.
pub fn norms_hold_plus_one(architecture: &str) -> bool {
    matches!(architecture, "gemma2" | "gemma3")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back_for_every_architecture() {
        for arch in ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
            let layer = COMMON
                .iter()
                .chain(special(arch))
                .flat_map(|(g, _)| ["weight", "bias"].map(|kind| format!("blk.17.{g}.{kind}")));
            for name in layer.chain(WHOLE.iter().map(|(g, _)| (*g).to_owned())) {
                let hf = to_hugging_face(arch, &name);
                assert!(hf.starts_with("model.") || hf == "lm_head.weight", "{arch}: {name} -> {hf}");
                assert_eq!(to_gguf(arch, &hf), name, "{arch}: by way of {hf}");
            }
        }
    }

    #[test]
    fn the_same_word_is_another_norm_in_gemma() {
        let name = |arch| to_hugging_face(arch, "blk.0.ffn_norm.weight");
        assert_eq!(name("llama"), "model.layers.0.post_attention_layernorm.weight");
        assert_eq!(name("gemma3"), "model.layers.0.pre_feedforward_layernorm.weight");
    }

    #[test]
    fn names_without_counterpart_stay() {
        for name in ["rope_freqs.weight", "rope_factors_long.weight", "blk.x.attn_q.weight", "blk.1.unknown.weight", ""]
        {
            assert_eq!(to_hugging_face("llama", name), name);
        }
    }

    #[test]
    fn multimodal_wrappers_are_taken_off() {
        assert_eq!(without_wrapper("language_model.model.norm.weight"), "model.norm.weight");
        assert_eq!(without_wrapper("model.language_model.norm.weight"), "model.norm.weight");
        assert_eq!(without_wrapper("language_model.lm_head.weight"), "lm_head.weight");
        assert_eq!(without_wrapper("model.norm.weight"), "model.norm.weight");
    }
}
