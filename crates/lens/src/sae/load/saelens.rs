//! SAELens (decoderesearch, formerly jbloomAus): `cfg.json` and `sae_weights.safetensors`.
//!
//! Before version 6.0 keys were others, and TopK was written as architecture `standard` with an activation function.

use std::path::Path;

use meden_files::safetensors_file::Safetensors;
use serde_json::Value;

use super::{by_latent, config, floats, number, text, vector};
use crate::sae::activation::Activation;
use crate::sae::error::SaeError;
use crate::sae::normalize::Normalize;
use crate::sae::parts::{Origin, Parts};

pub(super) fn read(folder: &Path) -> Result<Parts, SaeError> {
    let path = folder.join("cfg.json");
    let cfg = config(&path)?;
    let need = |key: &str| {
        number(&cfg, key)
            .ok_or_else(|| SaeError::format(&path, format!("{key} is missing"), "it is no configuration of SAELens"))
    };
    let (d, n) = (need("d_in")?, need("d_sae")?);
    let weights = folder.join("sae_weights.safetensors");
    let file = Safetensors::open(&weights)?;
    let (shape, values) = floats(&file, "W_enc")?;
    let encoder = by_latent(&weights, "W_enc", (&shape, values), n, d)?;
    let (shape, values) = floats(&file, "W_dec")?;
    let decoder = by_latent(&weights, "W_dec", (&shape, values), n, d)?;
    let activation = activation(&path, &cfg, &file, n)?;
    let gated = matches!(activation, Activation::Gated { .. });
    let mut notes = Vec::new();
    let mut parts = Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder,
        b_enc: if gated { vec![0.0; n] } else { vector(&file, "b_enc", n)? },
        b_dec: vector(&file, "b_dec", d)?,
        skip: None,
        activation,
        normalize: normalize(&path, &cfg, &mut notes)?,
        subtract_b_dec: cfg.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true),
        rescale_by_decoder_norm: cfg.get("rescale_acts_by_decoder_norm").and_then(Value::as_bool).unwrap_or(false),
        origin: origin(&cfg),
    };
    // old standard files divide the reconstruction by a factor of its own
    if file.tensors().iter().any(|t| t.name == "scaling_factor") {
        let factors = vector(&file, "scaling_factor", n)?;
        for (row, factor) in parts.decoder.chunks_exact_mut(d).zip(&factors) {
            row.iter_mut().for_each(|w| *w *= factor);
        }
        notes.push("scaling_factor was folded into the decoder".into());
    }
    parts.origin.notes = notes;
    Ok(parts)
}

fn activation(path: &Path, cfg: &Value, file: &Safetensors, n: usize) -> Result<Activation, SaeError> {
    let k = number(cfg, "k").or_else(|| cfg.get("activation_fn_kwargs").and_then(|a| number(a, "k")));
    let old = text(cfg, "activation_fn_str").or_else(|| text(cfg, "activation_fn"));
    let named = text(cfg, "architecture").unwrap_or_else(|| "standard".into());
    // files before 6.0 call a TopK autoencoder standard
    let named = if named == "standard" && old.as_deref() == Some("topk") { "topk".to_owned() } else { named };
    Ok(match named.as_str() {
        "standard" => match old.as_deref() {
            None | Some("relu") => Activation::Relu,
            Some(other) => {
                let fix = "relu and topk are read";
                return Err(SaeError::format(path, format!("its activation function is {other}"), fix));
            }
        },
        "topk" => Activation::TopK {
            k: k.ok_or_else(|| {
                SaeError::format(path, "k is missing", "a TopK autoencoder says how many latents fire")
            })?,
        },
        "jumprelu" | "batchtopk" => Activation::JumpRelu { threshold: vector(file, "threshold", n)? },
        "gated" => Activation::Gated {
            b_gate: vector(file, "b_gate", n)?,
            b_mag: vector(file, "b_mag", n)?,
            r_mag: vector(file, "r_mag", n)?,
        },
        other => {
            let fix = "standard, topk, batchtopk (saved with its threshold), jumprelu and gated are read";
            return Err(SaeError::format(path, format!("its architecture is {other}"), fix));
        }
    })
}

fn normalize(path: &Path, cfg: &Value, notes: &mut Vec<String>) -> Result<Normalize, SaeError> {
    let value = cfg.get("normalize_activations").cloned().unwrap_or(Value::Null);
    let named = match &value {
        Value::Null | Value::Bool(false) => "none",
        Value::Bool(true) => "expected_average_only_in",
        Value::String(text) => text.as_str(),
        _ => "?",
    };
    match named {
        "none" => Ok(Normalize::None),
        "constant_norm_rescale" => Ok(Normalize::ConstantNormRescale),
        "layer_norm" => Ok(Normalize::LayerNorm),
        "expected_average_only_in" => match cfg.get("scale").and_then(Value::as_f64) {
            Some(scale) => Ok(Normalize::ExpectedAverageOnlyIn { scale: scale as f32 }),
            None => {
                notes.push(
                    "inputs were scaled to the average length sqrt(d) in training and the file does not say by how much; \
                     it is taken to be folded into the weights: see `meden sae check`"
                        .into(),
                );
                Ok(Normalize::None)
            }
        },
        other => {
            let fix = "none, expected_average_only_in, constant_norm_rescale and layer_norm are read";
            Err(SaeError::format(path, format!("normalize_activations is {other}"), fix))
        }
    }
}

fn origin(cfg: &Value) -> Origin {
    let null = Value::Null;
    let metadata = cfg.get("metadata").unwrap_or(&null);
    let either = |new: &str, old: &[&str]| text(metadata, new).or_else(|| old.iter().find_map(|key| text(cfg, key)));
    let ours = metadata.get("meden").unwrap_or(&null);
    Origin {
        site: either("hook_name", &["hook_name", "hook_point"]),
        model: either("model_name", &["model_name"]),
        context: number(metadata, "context_size").or_else(|| number(cfg, "context_size")),
        model_fingerprint: text(ours, "model_fingerprint"),
        ..Origin::default()
    }
}
