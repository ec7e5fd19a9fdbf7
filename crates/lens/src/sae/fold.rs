//! The same autoencoder with constants moved into its weights.

use super::activation::Activation;
use super::normalize::Normalize;
use super::parts::Parts;

impl Parts {
    /// Moves the one factor of `expected_average_only_in` into the weights: outputs stay as they were, and latents too.
    /// Other normalisations depend on the row and stay.
    #[must_use]
    pub fn fold_scale(mut self) -> Parts {
        if let Normalize::ExpectedAverageOnlyIn { scale } = self.normalize {
            self.encoder.iter_mut().for_each(|w| *w *= scale);
            self.decoder.iter_mut().for_each(|w| *w /= scale);
            self.b_dec.iter_mut().for_each(|b| *b /= scale);
            self.normalize = Normalize::None;
        }
        self
    }

    /// Makes every direction one long: latents grow by what their directions lose, and outputs stay as they were. `None`
    /// for TopK and its kin without `rescale_by_decoder_norm`, where other latents would win.
    #[must_use]
    pub fn fold_decoder_norm(mut self) -> Option<Parts> {
        let competes = matches!(
            self.activation,
            Activation::TopK { .. } | Activation::BatchTopK { .. } | Activation::GroupMax { .. }
        );
        if competes && !self.rescale_by_decoder_norm {
            return None;
        }
        for (latent, norm) in self.decoder_norms().into_iter().enumerate() {
            if norm == 0.0 {
                continue;
            }
            self.encoder[latent * self.d_in..][..self.d_in].iter_mut().for_each(|w| *w *= norm);
            self.decoder[latent * self.d_out..][..self.d_out].iter_mut().for_each(|w| *w /= norm);
            self.b_enc[latent] *= norm;
            match &mut self.activation {
                Activation::JumpRelu { threshold } => threshold[latent] *= norm,
                Activation::Gated { b_gate, b_mag, .. } => {
                    b_gate[latent] *= norm;
                    b_mag[latent] *= norm;
                }
                _ => {}
            }
        }
        self.rescale_by_decoder_norm = false;
        Some(self)
    }
}
