//! EleutherAI's sae and sparsify: `layers.L/cfg.json` and `sae.safetensors`, TopK or GroupMax, transcoders with or
//! without a skip matrix.
//!
//! `b_dec` is subtracted from the input unless it is a transcoder. Encoder and decoder both have a row a latent.

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
    let missing =
        |key: &str| SaeError::format(&path, format!("{key} is missing"), "it is no configuration of sparsify");
    let d = number(&cfg, "d_in").ok_or_else(|| missing("d_in"))?;
    let told = number(&cfg, "num_latents").filter(|n| *n > 0);
    let n = match told {
        Some(n) => n,
        None => d * number(&cfg, "expansion_factor").ok_or_else(|| missing("expansion_factor"))?,
    };
    let k = number(&cfg, "k").ok_or_else(|| missing("k"))?;
    let activation = match text(&cfg, "activation").as_deref() {
        None | Some("topk") => Activation::TopK { k },
        Some("groupmax") => Activation::GroupMax { k },
        Some(other) => {
            return Err(SaeError::format(&path, format!("its activation is {other}"), "topk and groupmax are read"));
        }
    };
    let weights = folder.join("sae.safetensors");
    let file = Safetensors::open(&weights)?;
    let (shape, values) = floats(&file, "encoder.weight")?;
    let encoder = by_latent(&weights, "encoder.weight", (&shape, values), n, d)?;
    let (shape, values) = floats(&file, "W_dec")?;
    let decoder = by_latent(&weights, "W_dec", (&shape, values), n, d)?;
    let skip = file.tensors().iter().any(|t| t.name == "W_skip");
    let flag = |key: &str| cfg.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder,
        b_enc: vector(&file, "encoder.bias", n)?,
        b_dec: vector(&file, "b_dec", d)?,
        skip: if skip { Some(vector(&file, "W_skip", d * d)?) } else { None },
        activation,
        normalize: Normalize::None,
        subtract_b_dec: !flag("transcode"),
        rescale_by_decoder_norm: false,
        origin: Origin { site: site(folder), ..Origin::default() },
    })
}

/// The module that the folder is named after.
fn site(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    let name = name.strip_prefix("model.").unwrap_or(name);
    name.starts_with("layers.").then(|| format!("model.{name}"))
}
