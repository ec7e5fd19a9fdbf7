//! Configuration from a Hugging Face `config.json`.

use meden_files::hf;

use super::config::{Activation, Config, GEMMA2_PATTERN, GEMMA3_PATTERN, LayerAttention, slides};
use super::rope::{RopeScaling, RopeSpec};
use crate::error::EngineError;

pub(crate) fn read(file: &hf::Config) -> Result<Config, EngineError> {
    let architecture = file.architecture().to_string();
    let gemma = architecture.starts_with("gemma");
    let head_dim = file.head_dim.unwrap_or(file.hidden_size / file.num_attention_heads);
    let context = file.max_position_embeddings.unwrap_or(2048);

    let global = rope(file, "full_attention", head_dim, context)?;
    let local = rope(file, "sliding_attention", head_dim, context)?;
    let (ropes, local_rope) = if architecture == "gemma3" { (vec![global, local], 1) } else { (vec![global], 0) };
    let attention = (0..file.num_hidden_layers)
        .map(|layer| match window(file, &architecture, layer) {
            Some(window) => LayerAttention { window: Some(window), rope: local_rope },
            None => LayerAttention { window: None, rope: 0 },
        })
        .collect();

    let scaled_by = match file.query_pre_attn_scalar {
        Some(scalar) if gemma => scalar as f32,
        _ => head_dim as f32,
    };
    let cap = |value: Option<f64>| value.filter(|&c| c > 0.0).map(|c| c as f32);
    Ok(Config {
        vocab: file.vocab_size,
        hidden: file.hidden_size,
        intermediate: file.intermediate_size,
        layers: file.num_hidden_layers,
        q_heads: file.num_attention_heads,
        kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
        head_dim,
        context,
        norm_eps: file.rms_norm_eps.unwrap_or(1e-6) as f32,
        activation: activation(file, gemma)?,
        attention_scale: 1.0 / scaled_by.sqrt(),
        attention_softcap: cap(file.attn_logit_softcapping),
        final_softcap: cap(file.final_logit_softcapping),
        embedding_scale: if gemma { (file.hidden_size as f32).sqrt() } else { 1.0 },
        norm_plus_one: gemma,
        interleaved_qk: false,
        post_norms: gemma,
        qk_norm: matches!(architecture.as_str(), "qwen3" | "gemma3"),
        attention,
        ropes,
        architecture,
    })
}

fn activation(file: &hf::Config, gemma: bool) -> Result<Activation, EngineError> {
    // gemma's files name the activation twice; the newer field wins
    let name = file.hidden_activation.as_deref().or(file.hidden_act.as_deref());
    match name {
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some("gelu") if gemma => Ok(Activation::GeluTanh), // a known slip of early gemma files
        None => Ok(if gemma { Activation::GeluTanh } else { Activation::Silu }),
        Some(other) => Err(EngineError::Config {
            field: "hidden_act".into(),
            why: format!("`{other}` is not supported; silu and gelu_pytorch_tanh are"),
        }),
    }
}

/// The window of one layer, if it slides.
fn window(file: &hf::Config, architecture: &str, layer: usize) -> Option<u32> {
    let width = file.sliding_window.filter(|&w| w > 0)? as u32;
    if let Some(types) = &file.layer_types {
        return (types.get(layer)? == "sliding_attention").then_some(width);
    }
    let sliding = match architecture {
        "gemma2" => slides(layer, GEMMA2_PATTERN),
        "gemma3" => slides(layer, file.sliding_window_pattern.filter(|&p| p > 0).unwrap_or(GEMMA3_PATTERN)),
        "qwen2" | "qwen3" => {
            file.use_sliding_window == Some(true) && layer >= file.max_window_layers.unwrap_or(usize::MAX)
        }
        _ => true,
    };
    sliding.then_some(width)
}

fn rope(file: &hf::Config, layer_type: &str, head_dim: usize, context: usize) -> Result<RopeSpec, EngineError> {
    let rope = file.rope(layer_type);
    let theta = rope.rope_theta.unwrap_or(10_000.0);
    let rotated = (head_dim as f64 * rope.partial_rotary_factor.unwrap_or(1.0)) as usize;
    let original = rope.original_max_position_embeddings.map_or(context, |n| n as usize);
    let needed = |field: &str, value: Option<f64>| {
        value.ok_or_else(|| EngineError::Config {
            field: format!("rope_parameters.{field}"),
            why: format!("`{}` scaling needs it", rope.kind()),
        })
    };
    let lists = |field: &str, list: &Option<Vec<f64>>| {
        list.clone().ok_or_else(|| EngineError::Config {
            field: format!("rope_parameters.{field}"),
            why: "longrope scaling needs it".into(),
        })
    };
    let scaling = match rope.kind() {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed("factor", rope.factor)? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor", rope.factor)?,
            low: needed("low_freq_factor", rope.low_freq_factor)?,
            high: needed("high_freq_factor", rope.high_freq_factor)?,
            original,
        },
        "yarn" => RopeScaling::Yarn {
            factor: needed("factor", rope.factor)?,
            original,
            attention_factor: rope.attention_factor,
            beta_fast: rope.beta_fast.unwrap_or(32.0),
            beta_slow: rope.beta_slow.unwrap_or(1.0),
        },
        "longrope" | "su" => RopeScaling::Long {
            short: lists("short_factor", &rope.short_factor)?,
            long: lists("long_factor", &rope.long_factor)?,
            original,
            context,
            attention_factor: rope.attention_factor,
        },
        other => {
            return Err(EngineError::Config {
                field: "rope_parameters.rope_type".into(),
                why: format!("`{other}` is not supported; default, linear, llama3, yarn and longrope are"),
            });
        }
    };
    RopeSpec::new(rotated, theta, &scaling)
}
