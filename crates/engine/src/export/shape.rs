//! `config.json` as the keys of an architecture: the reverse of reading them in `model/config_gguf.rs`.

use meden_files::ModelFiles;
use meden_files::gguf::Value;
use meden_files::hf;
use meden_files::quantize::Additions;

use crate::error::EngineError;
use crate::model::config::Config;
use crate::model::rope::{RopeScaling, RopeSpec};

pub(super) fn additions(files: &ModelFiles, file: &hf::Config, config: &Config) -> Result<Additions, EngineError> {
    // GGUF has no mistral: the format's converters write it as a llama
    let prefix = if config.architecture == "mistral" { "llama" } else { &config.architecture };
    let mut made = Additions::default();
    let mut put = |key: String, value: Value| made.metadata.push((key, value));
    put("general.architecture".into(), prefix.into());
    put("general.type".into(), "model".into());
    if let Some(name) = files.path().canonicalize().ok().as_deref().and_then(|p| p.file_name()) {
        put("general.name".into(), name.to_string_lossy().as_ref().into());
    }
    let key = |name: &str| format!("{prefix}.{name}");
    let rows = files.require("model.embed_tokens.weight")?.shape.first().copied().unwrap_or(0);
    let rotated = config.ropes[0].rotated();
    for (name, size) in [
        ("vocab_size", rows),
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate),
        ("rope.dimension_count", rotated),
        ("attention.head_count", config.q_heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ] {
        put(key(name), Value::U32(size as u32));
    }
    if let Some(window) = config.attention.iter().find_map(|a| a.window) {
        put(key("attention.sliding_window"), Value::U32(window));
    }
    put(key("attention.layer_norm_rms_epsilon"), Value::F32(config.norm_eps));
    for (name, cap) in
        [("attn_logit_softcapping", config.attention_softcap), ("final_logit_softcapping", config.final_softcap)]
    {
        if let Some(cap) = cap {
            put(key(name), Value::F32(cap));
        }
    }
    let rope = file.rope("full_attention");
    let theta = rope.rope_theta.unwrap_or(10_000.0);
    put(key("rope.freq_base"), Value::F32(theta as f32));
    if config.ropes.len() > 1 {
        let local = file.rope("sliding_attention").rope_theta.unwrap_or(10_000.0);
        put(key("rope.freq_base_swa"), Value::F32(local as f32));
    }
    let original = rope.original_max_position_embeddings.unwrap_or(config.context as u64) as u32;
    let factor = rope.factor.unwrap_or(1.0);
    match rope.kind() {
        "linear" => {
            put(key("rope.scaling.type"), "linear".into());
            put(key("rope.scaling.factor"), Value::F32(factor as f32));
        }
        "yarn" => {
            put(key("rope.scaling.type"), "yarn".into());
            put(key("rope.scaling.factor"), Value::F32(factor as f32));
            put(key("rope.scaling.original_context_length"), Value::U32(original));
            if let Some(attention) = rope.attention_factor {
                // the key multiplies what follows from the formula
                put(key("rope.scaling.attn_factor"), Value::F32((attention / (0.1 * factor.ln() + 1.0)) as f32));
            }
        }
        "llama3" => {
            let plain = RopeSpec::new(rotated, theta, &RopeScaling::None)?;
            made.vectors.push(("rope_freqs.weight".into(), config.ropes[0].divisors(&plain)));
        }
        "longrope" | "su" => {
            put(key("rope.scaling.original_context_length"), Value::U32(original));
            put(key("rope.scaling.attn_factor"), Value::F32(config.ropes[0].attention_factor()));
            let floats = |list: &Option<Vec<f64>>| list.iter().flatten().map(|&f| f as f32).collect();
            made.vectors.push(("rope_factors_long.weight".into(), floats(&rope.long_factor)));
            made.vectors.push(("rope_factors_short.weight".into(), floats(&rope.short_factor)));
        }
        _ => {}
    }
    Ok(made)
}

/// Refuses a shape that came back from the keys as another.
pub(super) fn check(wanted: &Config, got: &Config) -> Result<(), EngineError> {
    let refuse = |field: &str, wanted: String, got: String| {
        let why = format!("it is {wanted}, but GGUF has no key for that and its readers take {got}");
        Err(EngineError::Config { field: field.to_owned(), why })
    };
    let sizes = |c: &Config| [c.hidden, c.intermediate, c.layers, c.q_heads, c.kv_heads, c.head_dim, c.context];
    if sizes(wanted) != sizes(got) {
        return refuse("sizes", format!("{:?}", sizes(wanted)), format!("{:?}", sizes(got)));
    }
    for (field, wanted, got) in [
        // as config.json has it: the scale is one over its root
        ("query_pre_attn_scalar", wanted.attention_scale.powi(-2), got.attention_scale.powi(-2)),
        ("rms_norm_eps", wanted.norm_eps, got.norm_eps),
        ("attn_logit_softcapping", wanted.attention_softcap.unwrap_or(0.0), got.attention_softcap.unwrap_or(0.0)),
        ("final_logit_softcapping", wanted.final_softcap.unwrap_or(0.0), got.final_softcap.unwrap_or(0.0)),
    ] {
        if (wanted - got).abs() > 1e-5 * wanted.abs() {
            return refuse(field, wanted.to_string(), got.to_string());
        }
    }
    if wanted.activation != got.activation {
        return refuse("hidden_act", format!("{:?}", wanted.activation), format!("{:?}", got.activation));
    }
    for (layer, (a, b)) in wanted.attention.iter().zip(&got.attention).enumerate() {
        if a.window != b.window {
            return refuse(&format!("layer_types[{layer}]"), format!("{:?}", a.window), format!("{:?}", b.window));
        }
        if !wanted.ropes[a.rope].is_like(&got.ropes[b.rope]) {
            let why = "GGUF has no keys for this kind of rotation".to_owned();
            return Err(EngineError::Config { field: "rope_parameters".to_owned(), why });
        }
    }
    Ok(())
}
