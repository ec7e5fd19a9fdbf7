//! What an autoencoder consists of, as files hold it.

use serde::{Deserialize, Serialize};

use super::activation::Activation;
use super::error::SaeError;
use super::normalize::Normalize;

/// Where an autoencoder comes from, as its file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Family of the file.
    pub family: String,
    /// Site, in the file's own words (`blocks.12.hook_resid_post`, `layers.12.mlp`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Model, in the file's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens of the contexts that it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Fingerprint of the model, in files of this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_fingerprint: Option<String>,
    /// SHA-256 of the weights' file, where it was read from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What a user should know about how the file was read.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// The numbers of an autoencoder. Matrices have one row a latent.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Values of a row that goes in.
    pub d_in: usize,
    /// Values of a row that comes out.
    pub d_out: usize,
    /// Latents.
    pub width: usize,
    /// (width, d_in).
    pub encoder: Vec<f32>,
    /// (width, d_out).
    pub decoder: Vec<f32>,
    /// (width); zeros for gated ones.
    pub b_enc: Vec<f32>,
    /// (d_out).
    pub b_dec: Vec<f32>,
    /// (d_out, d_in): what skip transcoders add.
    pub skip: Option<Vec<f32>>,
    /// What makes latents of pre-activations.
    pub activation: Activation,
    /// What is done to rows before they are encoded.
    pub normalize: Normalize,
    /// Whether `b_dec` is subtracted before encoding.
    pub subtract_b_dec: bool,
    /// Whether latents are multiplied with the length of their direction before they compete (TopK), and divided again.
    pub rescale_by_decoder_norm: bool,
    /// Where it comes from.
    pub origin: Origin,
}

impl Parts {
    /// Lengths of the decoder's rows.
    pub fn decoder_norms(&self) -> Vec<f32> {
        self.decoder.chunks_exact(self.d_out.max(1)).map(length).collect()
    }

    /// Refuses parts that do not fit, numbers that are not finite, and thresholds below zero.
    pub(super) fn check(&self) -> Result<(), SaeError> {
        let (n, d) = (self.width, self.d_in);
        if n == 0 || d == 0 || self.d_out == 0 {
            return Err(SaeError::Field {
                field: "shape",
                value: format!("{n} latents, {d} values in, {} out", self.d_out),
                why: "none of them may be zero".into(),
            });
        }
        let area = |a: usize, b: usize| {
            a.checked_mul(b).filter(|&x| x <= isize::MAX as usize / 4).ok_or_else(|| SaeError::Field {
                field: "shape",
                value: format!("{a} x {b}"),
                why: "it does not fit into memory".into(),
            })
        };
        let mut lists: Vec<(&'static str, &[f32], usize)> = vec![
            ("the encoder", &self.encoder, area(n, d)?),
            ("the decoder", &self.decoder, area(n, self.d_out)?),
            ("b_enc", &self.b_enc, n),
            ("b_dec", &self.b_dec, self.d_out),
        ];
        if let Some(skip) = &self.skip {
            lists.push(("the skip matrix", skip, area(d, self.d_out)?));
        }
        match &self.activation {
            Activation::JumpRelu { threshold } => lists.push(("threshold", threshold, n)),
            Activation::Gated { b_gate, b_mag, r_mag } => {
                lists.extend([("b_gate", b_gate.as_slice(), n), ("b_mag", b_mag, n), ("r_mag", r_mag, n)]);
            }
            Activation::TopK { k } | Activation::BatchTopK { k } | Activation::GroupMax { k } => self.check_k(*k)?,
            Activation::Relu => {}
        }
        for (what, values, want) in lists {
            if values.len() != want {
                return Err(SaeError::Shape { what, got: values.len(), want, width: n, d });
            }
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                let why = "it has to be a finite number; the file is damaged";
                return Err(SaeError::Value { what, index, value: values[index], why });
            }
        }
        if let Activation::JumpRelu { threshold } = &self.activation
            && let Some(index) = threshold.iter().position(|v| *v < 0.0)
        {
            let why = "a threshold below zero would let negative latents through";
            return Err(SaeError::Value { what: "threshold", index, value: threshold[index], why });
        }
        let scale = match self.normalize {
            Normalize::ExpectedAverageOnlyIn { scale } => scale,
            _ => 1.0,
        };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(SaeError::Value { what: "scale", index: 0, value: scale, why: "it has to be above zero" });
        }
        if self.subtract_b_dec && self.d_in != self.d_out {
            return Err(SaeError::Field {
                field: "apply_b_dec_to_input",
                value: "true".into(),
                why: format!("{} values go in and {} come out, so b_dec does not fit the input", d, self.d_out),
            });
        }
        Ok(())
    }

    fn check_k(&self, k: usize) -> Result<(), SaeError> {
        let n = self.width;
        let even = !matches!(self.activation, Activation::GroupMax { .. }) || n.is_multiple_of(k.max(1));
        if (1..=n).contains(&k) && even {
            return Ok(());
        }
        let why = match even {
            true => format!("1 to {n}, the number of latents"),
            false => format!("a number of runs that parts {n} latents evenly"),
        };
        Err(SaeError::Field { field: "k", value: k.to_string(), why })
    }
}

/// The Euclidean length of a row.
pub(super) fn length(row: &[f32]) -> f32 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
}
