//! Latents into rows.

use meden_kernels::matmul::Needs;
use meden_kernels::{Activations, matmul, sparse};

use super::Sae;
use super::codes::Codes;
use super::error::SaeError;

impl Sae {
    /// Rows `(rows, d_out)` of codes: `z W_dec + b_dec`, with what was done to the input undone. Skip transcoders add
    /// what depends on the input as well, see [`Sae::reconstruct`].
    ///
    /// # Errors
    /// Codes of another autoencoder.
    pub fn decode(&self, codes: &Codes) -> Result<Vec<f32>, SaeError> {
        if codes.width() != self.width {
            let (got, want) = (codes.width(), self.width);
            return Err(SaeError::Shape { what: "a row of codes", got, want, width: want, d: self.d_out });
        }
        let mut rows = vec![0.0; codes.len() * self.d_out];
        self.pool.chunks(&mut rows, self.d_out, |row, out| {
            let (latents, values) = codes.row(row);
            out.copy_from_slice(&self.b_dec);
            sparse::gather_sum(self.isa, &self.decoder, latents, values, out);
            let scale = codes.scale(row);
            if scale != super::RowScale::NONE {
                out.iter_mut().for_each(|x| *x = *x * scale.back + scale.shift);
            }
        });
        Ok(rows)
    }

    /// Rows through the autoencoder, `(rows, d_out)`.
    ///
    /// # Errors
    /// Rows that are not whole.
    pub fn reconstruct(&self, rows: &[f32]) -> Result<Vec<f32>, SaeError> {
        let mut out = self.decode(&self.encode(rows)?)?;
        if let Some(skip) = &self.skip {
            let mut activations = Activations::new();
            activations.set_for(&self.pool, rows, self.d_in, self.isa, Needs { floats: true, blocks: false });
            let mut more = vec![0.0; out.len()];
            matmul(&self.pool, &activations, skip, &mut more)?;
            out.iter_mut().zip(&more).for_each(|(x, more)| *x += more);
        }
        Ok(out)
    }
}
