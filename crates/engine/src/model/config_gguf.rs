//! Configuration from GGUF metadata, with the facts that the file does not tell.
//!
//! Gemma's window pattern, the local rotation base and the query scale are not in the file; norms already contain
//! the +1; llama3's rotation factors are a tensor.

use meden_files::ModelFiles;
use meden_files::gguf::Gguf;

use super::config::{Activation, Config, GEMMA2_PATTERN, GEMMA3_PATTERN, LayerAttention, slides};
use super::rope::{RopeScaling, RopeSpec};
use crate::error::EngineError;

const LOCAL_THETA: f64 = 10_000.0;

pub(crate) fn read(gguf: &Gguf, files: &ModelFiles) -> Result<Config, EngineError> {
    let architecture = files.architecture().to_string();
    let prefix = gguf.architecture()?.to_string();
    let key = |name: &str| format!("{prefix}.{name}");
    let size = |name: &str| -> Result<usize, EngineError> { Ok(gguf.u32(&key(name))? as usize) };
    let opt_size =
        |name: &str| -> Result<Option<usize>, EngineError> { Ok(gguf.opt_u32(&key(name))?.map(|v| v as usize)) };

    let hidden = size("embedding_length")?;
    let layers = size("block_count")?;
    let q_heads = size("attention.head_count")?;
    let kv_heads = opt_size("attention.head_count_kv")?.unwrap_or(q_heads);
    let head_dim = opt_size("attention.key_length")?.unwrap_or(hidden / q_heads.max(1));
    if let Some(value_length) = opt_size("attention.value_length")?
        && value_length != head_dim
    {
        return Err(EngineError::Config {
            field: key("attention.value_length"),
            why: format!("values of {value_length} channels beside keys of {head_dim} are not supported"),
        });
    }
    let gemma = architecture.starts_with("gemma");
    let window = opt_size("attention.sliding_window")?.filter(|&w| w > 0).map(|w| w as u32);
    let rotated = opt_size("rope.dimension_count")?.unwrap_or(head_dim).min(head_dim);
    let theta = gguf.opt_f32(&key("rope.freq_base"))?.map_or(10_000.0, f64::from);

    let global = RopeSpec::new(rotated, theta, &scaling(gguf, &key, files)?)?;
    let (ropes, attention) = match architecture.as_str() {
        "gemma3" => {
            let local = gguf.opt_f32(&key("rope.freq_base_swa"))?.map_or(LOCAL_THETA, f64::from);
            let local = RopeSpec::new(rotated, local, &RopeScaling::None)?;
            (vec![global, local], alternating(layers, window, GEMMA3_PATTERN, 1))
        }
        "gemma2" => (vec![global], alternating(layers, window, GEMMA2_PATTERN, 0)),
        _ => (vec![global], vec![LayerAttention { window, rope: 0 }; layers]),
    };
    // the 27B models of both gemmas scale queries by their hidden size a head, the others by the head's own size
    let large = matches!((architecture.as_str(), layers), ("gemma2", 46) | ("gemma3", 62));
    let scaled_by = if large { hidden as f32 / q_heads as f32 } else { head_dim as f32 };
    let softcap = |name: &str, default: f32| -> Result<Option<f32>, EngineError> {
        if architecture != "gemma2" {
            return Ok(None);
        }
        Ok(Some(gguf.opt_f32(&key(name))?.unwrap_or(default)).filter(|&cap| cap > 0.0))
    };

    Ok(Config {
        vocab: 0, // the embedding's rows say it better than any key
        hidden,
        intermediate: size("feed_forward_length")?,
        layers,
        q_heads,
        kv_heads,
        head_dim,
        context: size("context_length")?,
        norm_eps: gguf.f32(&key("attention.layer_norm_rms_epsilon"))?,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        attention_scale: 1.0 / scaled_by.sqrt(),
        attention_softcap: softcap("attn_logit_softcapping", 50.0)?,
        final_softcap: softcap("final_logit_softcapping", 30.0)?,
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        norm_plus_one: false,
        interleaved_qk: meden_files::names::permuted_heads(&architecture),
        post_norms: gemma,
        qk_norm: matches!(architecture.as_str(), "qwen3" | "gemma3"),
        attention,
        ropes,
        architecture,
    })
}

fn alternating(layers: usize, window: Option<u32>, pattern: usize, local_rope: usize) -> Vec<LayerAttention> {
    (0..layers)
        .map(|layer| match slides(layer, pattern) {
            true => LayerAttention { window, rope: local_rope },
            false => LayerAttention { window: None, rope: 0 },
        })
        .collect()
}

fn scaling(gguf: &Gguf, key: &dyn Fn(&str) -> String, files: &ModelFiles) -> Result<RopeScaling, EngineError> {
    if let Some(factors) = factor_tensor(files, "rope_freqs.weight")? {
        return Ok(RopeScaling::Factors(factors));
    }
    let original = gguf.opt_u32(&key("rope.scaling.original_context_length"))?.map(|v| v as usize);
    let attention_factor = gguf.opt_f32(&key("rope.scaling.attn_factor"))?.map(f64::from);
    if let (Some(short), Some(long)) =
        (factor_tensor(files, "rope_factors_short.weight")?, factor_tensor(files, "rope_factors_long.weight")?)
    {
        let context = gguf.u32(&key("context_length"))? as usize;
        let original = original.unwrap_or(4096);
        return Ok(RopeScaling::Long { short, long, original, context, attention_factor });
    }
    let factor = gguf.opt_f32(&key("rope.scaling.factor"))?.map(f64::from).filter(|&f| f > 0.0 && f != 1.0);
    match (gguf.opt_str(&key("rope.scaling.type"))?, factor) {
        (None | Some("none"), None) | (Some("linear" | "yarn"), None) => Ok(RopeScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => {
            let original = original.unwrap_or(gguf.u32(&key("context_length"))? as usize);
            // llama.cpp's factor multiplies the one that follows from the formula
            let attention_factor = attention_factor.map(|a| a * (0.1 * factor.ln() + 1.0));
            Ok(RopeScaling::Yarn { factor, original, attention_factor, beta_fast: 32.0, beta_slow: 1.0 })
        }
        (Some(kind), _) => Err(EngineError::Config {
            field: key("rope.scaling.type"),
            why: format!("`{kind}` is not supported; none, linear, yarn, and factor tensors are"),
        }),
    }
}

fn factor_tensor(files: &ModelFiles, name: &str) -> Result<Option<Vec<f64>>, EngineError> {
    let Some(info) = files.tensor(name) else { return Ok(None) };
    let bytes = files.read(info)?;
    let count = info.shape.iter().product();
    let mut values = vec![0.0f32; count];
    meden_kernels::weights::dequantize(info.dtype, &bytes, &mut values)?;
    Ok(Some(values.into_iter().map(f64::from).collect()))
}
