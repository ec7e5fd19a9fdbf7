//! Llama Scope (OpenMOSS): `hyperparams.json` and `checkpoints/final.safetensors`, JumpReLU.
//!
//! Inputs are scaled to the average length `sqrt(d)` of the training data, which the configuration names; `b_dec` is not
//! subtracted. The threshold is one number for all latents, or its logarithm one a latent in newer exports.

use std::path::Path;

use meden_files::safetensors_file::Safetensors;
use serde_json::Value;

use super::{by_latent, config, floats, number, text, vector};
use crate::sae::activation::Activation;
use crate::sae::error::SaeError;
use crate::sae::normalize::Normalize;
use crate::sae::parts::{Origin, Parts};

pub(super) fn read(folder: &Path) -> Result<Parts, SaeError> {
    let path = folder.join("hyperparams.json");
    let cfg = config(&path)?;
    let missing =
        |key: &str| SaeError::format(&path, format!("{key} is missing"), "it is no configuration of Llama Scope");
    let weights = folder.join("checkpoints/final.safetensors");
    let file = Safetensors::open(&weights)?;
    let n = floats(&file, "encoder.bias")?.1.len();
    let b_dec = floats(&file, "decoder.bias")?.1;
    let d = b_dec.len();
    if number(&cfg, "d_model").is_some_and(|told| told != d) {
        let problem = format!("d_model is {:?}, the weights have {d} values a row", number(&cfg, "d_model"));
        return Err(SaeError::format(&path, problem, "fetch weights and configuration of the same autoencoder"));
    }
    let (shape, values) = floats(&file, "encoder.weight")?;
    let encoder = by_latent(&weights, "encoder.weight", (&shape, values), n, d)?;
    let (shape, values) = floats(&file, "decoder.weight")?;
    let decoder = by_latent(&weights, "decoder.weight", (&shape, values), n, d)?;
    let average = cfg.get("dataset_average_activation_norm").and_then(|a| a.get("in")).and_then(Value::as_f64);
    let average = average.ok_or_else(|| missing("dataset_average_activation_norm.in"))?;
    let mut notes = Vec::new();
    let threshold = match file.tensors().iter().any(|t| t.name == "log_jumprelu_threshold") {
        true => vector(&file, "log_jumprelu_threshold", n)?.iter().map(|t| t.exp()).collect(),
        false => {
            let one = cfg.get("jump_relu_threshold").and_then(Value::as_f64);
            notes.push(
                "its one threshold is taken to be of scaled inputs, as its own code has it; SAELens scales it once more: \
                 hold L0 against the published one with `meden sae check`"
                    .into(),
            );
            vec![one.ok_or_else(|| missing("jump_relu_threshold"))? as f32; n]
        }
    };
    Ok(Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder,
        b_enc: vector(&file, "encoder.bias", n)?,
        b_dec,
        skip: None,
        activation: Activation::JumpRelu { threshold },
        normalize: Normalize::ExpectedAverageOnlyIn { scale: ((d as f64).sqrt() / average) as f32 },
        subtract_b_dec: false,
        rescale_by_decoder_norm: false,
        origin: Origin { site: text(&cfg, "hook_point_in"), notes, ..Origin::default() },
    })
}
