//! saprmarks's dictionary_learning: `config.json` and `ae.pt`, a pickle of PyTorch.
//!
//! Pickles run code when they are opened, so they are not read; three lines of Python turn one into `ae.safetensors`,
//! which is. `b_dec` is subtracted from the input; a `threshold` makes a TopK autoencoder JumpReLU at inference.

use std::path::Path;

use meden_files::safetensors_file::Safetensors;
use serde_json::Value;

use super::{by_latent, config, floats, number, text};
use crate::sae::activation::Activation;
use crate::sae::error::SaeError;
use crate::sae::normalize::Normalize;
use crate::sae::parts::{Origin, Parts};

/// Why `ae.pt` is not read.
pub(super) fn pickled(path: &Path) -> SaeError {
    SaeError::format(
        path,
        "a pickle of PyTorch, which may run code when it is opened",
        "convert it where PyTorch is: `from safetensors.torch import save_file; import torch; \
         save_file({k: v.contiguous() for k, v in torch.load('ae.pt', weights_only=True).items()}, 'ae.safetensors')`, \
         and put ae.safetensors beside config.json",
    )
}

pub(super) fn read(folder: &Path) -> Result<Parts, SaeError> {
    let path = folder.join("config.json");
    let all = config(&path)?;
    let cfg = all.get("trainer").unwrap_or(&all);
    let weights = folder.join("ae.safetensors");
    let file = Safetensors::open(&weights)?;
    let has = |name: &str| file.tensors().iter().any(|t| t.name == name);
    // an early bias of the decoder is called `bias`
    let bias = if has("b_dec") { "b_dec" } else { "bias" };
    let (b_enc, b_dec) = (floats(&file, "encoder.bias")?.1, floats(&file, bias)?.1);
    let (n, d) = (b_enc.len(), b_dec.len());
    let (shape, values) = floats(&file, "encoder.weight")?;
    let encoder = by_latent(&weights, "encoder.weight", (&shape, values), n, d)?;
    let (shape, values) = floats(&file, "decoder.weight")?;
    let decoder = by_latent(&weights, "decoder.weight", (&shape, values), n, d)?;
    let mut notes = Vec::new();
    let threshold = if has("threshold") { Some(floats(&file, "threshold")?.1) } else { None };
    let class = text(cfg, "dict_class").unwrap_or_default();
    let activation = match (threshold, number(cfg, "k")) {
        (Some(t), _) if t.len() == n => Activation::JumpRelu { threshold: t },
        (Some(t), _) if t.len() == 1 && t[0] >= 0.0 => {
            notes.push("its one threshold is used for every latent, as at its own inference".into());
            Activation::JumpRelu { threshold: vec![t[0]; n] }
        }
        (_, Some(k)) => Activation::TopK { k },
        (_, None) if class.contains("Gated") || class.contains("TopK") => {
            let fix = "AutoEncoder, AutoEncoderTopK, BatchTopKSAE and JumpReluAutoEncoder are read";
            return Err(SaeError::format(&path, format!("its class is {class} and it names no k"), fix));
        }
        (_, None) => Activation::Relu,
    };
    let place = (number(cfg, "layer"), text(cfg, "submodule_name"));
    Ok(Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder,
        b_enc,
        b_dec,
        skip: None,
        activation,
        normalize: Normalize::None,
        subtract_b_dec: cfg.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true),
        rescale_by_decoder_norm: false,
        origin: Origin {
            site: place.0.map(|layer| match &place.1 {
                Some(module) if !module.starts_with("resid") => format!("{layer}.{module}"),
                _ => format!("blocks.{layer}.hook_resid_post"),
            }),
            model: text(cfg, "lm_name"),
            notes,
            ..Origin::default()
        },
    })
}
