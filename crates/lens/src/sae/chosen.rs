//! A few latents of an autoencoder: what steering and watching need of thousands.

use meden_kernels::{Isa, sparse};

use super::Sae;
use super::activation::Activation;
use super::error::SaeError;
use super::normalize::{Normalize, RowScale};

/// Some latents of an autoencoder, with everything that encoding and decoding them takes.
///
/// Latents that compete (TopK, BatchTopK, GroupMax) are computed as if they were alone, `max(p, 0)`: without the others
/// nobody can say which of them would have been kept.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub(crate) latents: Vec<u32>,
    pub(crate) d: usize,
    /// (latents, d).
    pub(crate) encoder: Vec<f32>,
    /// (latents, d).
    pub(crate) decoder: Vec<f32>,
    pub(crate) b_enc: Vec<f32>,
    /// Subtracted from the input; zeros where nothing is.
    pub(crate) center: Vec<f32>,
    pub(crate) activation: Activation,
    pub(crate) normalize: Normalize,
    pub(crate) isa: Isa,
}

impl Sae {
    /// Some latents, in the order given.
    ///
    /// # Errors
    /// A latent that does not exist; a transcoder, whose directions do not belong to what it reads.
    pub fn chosen(&self, latents: &[u32]) -> Result<Chosen, SaeError> {
        let missing = |l: &&u32| **l as usize >= self.width;
        if let Some(latent) = latents.iter().find(missing) {
            let why = format!("this autoencoder has latents 0 to {}", self.width - 1);
            return Err(SaeError::Field { field: "latent", value: latent.to_string(), why });
        }
        if self.d_in != self.d_out || self.skip.is_some() {
            let why = "its directions belong to another site than the one it reads".into();
            return Err(SaeError::Field { field: "autoencoder", value: "a transcoder".into(), why });
        }
        let d = self.d_in;
        let mut encoder = vec![0.0; latents.len() * d];
        let mut decoder = Vec::with_capacity(latents.len() * d);
        for (&latent, row) in latents.iter().zip(encoder.chunks_exact_mut(d)) {
            self.encoder.row(latent as usize, row);
            decoder.extend_from_slice(&self.decoder[latent as usize * d..][..d]);
        }
        let pick = |all: &[f32]| latents.iter().map(|&l| all[l as usize]).collect::<Vec<f32>>();
        let activation = match &self.activation {
            Activation::JumpRelu { threshold } => Activation::JumpRelu { threshold: pick(threshold) },
            Activation::Gated { b_gate, b_mag, r_mag } => {
                Activation::Gated { b_gate: pick(b_gate), b_mag: pick(b_mag), r_mag: pick(r_mag) }
            }
            other => other.clone(),
        };
        Ok(Chosen {
            latents: latents.to_vec(),
            d,
            encoder,
            decoder,
            b_enc: pick(&self.b_enc),
            center: if self.subtract_b_dec { self.b_dec.clone() } else { vec![0.0; d] },
            activation,
            normalize: self.normalize,
            isa: self.isa,
        })
    }
}

impl Chosen {
    /// Which they are.
    pub fn latents(&self) -> &[u32] {
        &self.latents
    }

    /// Values of a row.
    pub fn d(&self) -> usize {
        self.d
    }

    /// The direction of the `n`-th of them, `(d)`.
    pub fn direction(&self, n: usize) -> &[f32] {
        &self.decoder[n * self.d..][..self.d]
    }

    /// Their values for a row, in their order, and how the row was normalised.
    pub fn encode(&self, row: &[f32]) -> (Vec<f32>, RowScale) {
        let scale = self.normalize.of(row);
        let input: Vec<f32> = row.iter().zip(&self.center).map(|(x, c)| (x - scale.shift) * scale.into - c).collect();
        let rows = self.encoder.chunks_exact(self.d).zip(&self.b_enc).enumerate();
        let one = |(n, (weights, &b)): (usize, (&[f32], &f32))| {
            self.activation.alone(n, sparse::dot(self.isa, &input, weights), b)
        };
        (rows.map(one).collect(), scale)
    }

    /// Adds `sum of by[n] * direction[n]` to a row that was normalised as `scale` says.
    ///
    /// # Panics
    /// If there is not one factor a latent.
    pub fn add(&self, by: &[f32], scale: RowScale, row: &mut [f32]) {
        assert_eq!(by.len(), self.latents.len(), "one factor a latent");
        let all: Vec<u32> = (0..by.len() as u32).collect();
        let by: Vec<f32> = by.iter().map(|b| b * scale.back).collect();
        sparse::gather_sum(self.isa, &self.decoder, &all, &by, row);
    }
}
