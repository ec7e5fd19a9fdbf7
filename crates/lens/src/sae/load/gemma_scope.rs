//! Gemma Scope (Google DeepMind, CC-BY 4.0): `layer_L/width_16k/average_l0_N/params.npz`, JumpReLU.
//!
//! `b_dec` is not subtracted from the input and nothing is normalised. The models are gemma-2 base and instruct ones.

use std::path::Path;

use meden_files::npz;

use super::by_latent;
use crate::sae::activation::Activation;
use crate::sae::error::SaeError;
use crate::sae::normalize::Normalize;
use crate::sae::parts::{Origin, Parts};

/// Most bytes that an archive may unpack to.
const MOST: u64 = 64 << 30;

pub(super) fn read(folder: &Path) -> Result<Parts, SaeError> {
    let path = folder.join("params.npz");
    let mut arrays = npz::read(&path, MOST)?;
    let mut take = |name: &str| {
        let found = arrays.iter().position(|(n, _)| n.eq_ignore_ascii_case(name));
        let found = found.map(|at| arrays.swap_remove(at).1);
        found.ok_or_else(|| SaeError::format(&path, format!("{name} is missing"), "it is no file of Gemma Scope"))
    };
    let (b_enc, b_dec, threshold) = (take("b_enc")?.values, take("b_dec")?.values, take("threshold")?.values);
    let (n, d) = (b_enc.len(), b_dec.len());
    let encoder = take("W_enc")?;
    let encoder = by_latent(&path, "W_enc", (&encoder.shape, encoder.values), n, d)?;
    let decoder = take("W_dec")?;
    let decoder = by_latent(&path, "W_dec", (&decoder.shape, decoder.values), n, d)?;
    let layer = layer(folder);
    Ok(Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder,
        b_enc,
        b_dec,
        skip: None,
        activation: Activation::JumpRelu { threshold },
        normalize: Normalize::None,
        subtract_b_dec: false,
        rescale_by_decoder_norm: false,
        origin: Origin { site: layer.map(|l| format!("blocks.{l}.hook_resid_post")), ..Origin::default() },
    })
}

/// The layer that a folder `…/layer_20/…` names.
fn layer(folder: &Path) -> Option<usize> {
    folder.components().rev().find_map(|c| c.as_os_str().to_str()?.strip_prefix("layer_")?.parse().ok())
}
