//! Sparse autoencoders: activations written as sums of few directions out of many.
//!
//! A row x of d values is encoded into `width` latents `z >= 0`, most of them zero, and decoded again:
//! `x̂ = z W_dec + b_dec`. In the order of the data: a file becomes [`Parts`] ([`mod@load`]), parts become an [`Sae`], rows
//! become [`Codes`] ([`Sae::encode`]), codes become rows again ([`Sae::decode`]). Where only a few latents matter,
//! [`Sae::chosen`] computes nothing else.
//!
//! Architectures: ReLU (Bricken et al. 2023), TopK (Gao et al., arXiv 2406.04093), BatchTopK (Bussmann et al., arXiv
//! 2412.06410), JumpReLU (Rajamanoharan et al., arXiv 2407.14435), gated (arXiv 2404.16014), and the GroupMax and skip
//! transcoders of EleutherAI's sparsify.

mod activation;
mod check;
mod chosen;
mod codes;
mod decode;
mod encode;
mod error;
mod fold;
pub mod load;
mod normalize;
mod parts;
mod save;
mod splice;
mod top;
mod topk;

pub use activation::Activation;
pub use check::{Check, Combination, Fit, fit};
pub use chosen::Chosen;
pub use codes::Codes;
pub use error::SaeError;
pub use load::{Family, load};
pub use normalize::{Normalize, RowScale};
pub use parts::{Origin, Parts};
pub use splice::{Recovered, Replace, Splice, recovered};
pub use top::{Moment, Top, TopLatent, promoted};
pub use topk::TopK;

use std::sync::Arc;

use meden_kernels::{Isa, Matrix, Pool};

/// A sparse autoencoder, ready to run.
pub struct Sae {
    d_in: usize,
    d_out: usize,
    width: usize,
    activation: Activation,
    normalize: Normalize,
    subtract_b_dec: bool,
    /// Norms of the decoder's rows, where latents are chosen by what they contribute.
    decoder_norms: Option<Vec<f32>>,
    encoder: Matrix,
    /// (width, d_out).
    decoder: Vec<f32>,
    b_enc: Vec<f32>,
    b_dec: Vec<f32>,
    skip: Option<Matrix>,
    origin: Origin,
    pool: Arc<Pool>,
    isa: Isa,
}

impl Sae {
    /// Checks the parts and puts them into the layout that products want. `threads` as in a model's load options: 0 for
    /// one a core.
    ///
    /// # Errors
    /// Lengths that do not fit, a number that is not finite, a negative threshold, a `k` that is 0 or beyond the width.
    pub fn new(parts: Parts, threads: usize) -> Result<Sae, SaeError> {
        Sae::with_pool(parts, Arc::new(Pool::new(threads)))
    }

    /// The same on threads that are there already; never two pools busy at once.
    ///
    /// # Errors
    /// As [`Sae::new`].
    pub fn with_pool(parts: Parts, pool: Arc<Pool>) -> Result<Sae, SaeError> {
        parts.check()?;
        let isa = Isa::best();
        let decoder_norms = parts.rescale_by_decoder_norm.then(|| parts.decoder_norms());
        let encoder = Matrix::from_f32(parts.width, parts.d_in, parts.encoder, isa)?;
        let skip = parts.skip.map(|skip| Matrix::from_f32(parts.d_out, parts.d_in, skip, isa)).transpose()?;
        Ok(Sae {
            d_in: parts.d_in,
            d_out: parts.d_out,
            width: parts.width,
            activation: parts.activation,
            normalize: parts.normalize,
            subtract_b_dec: parts.subtract_b_dec,
            decoder_norms,
            encoder,
            decoder: parts.decoder,
            b_enc: parts.b_enc,
            b_dec: parts.b_dec,
            skip,
            origin: parts.origin,
            pool,
            isa,
        })
    }

    /// The parts that it was made of.
    pub fn parts(&self) -> Parts {
        let rows = |matrix: &Matrix| {
            let mut values = vec![0f32; matrix.rows() * matrix.cols()];
            values.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(r, out)| matrix.row(r, out));
            values
        };
        Parts {
            d_in: self.d_in,
            d_out: self.d_out,
            width: self.width,
            encoder: rows(&self.encoder),
            decoder: self.decoder.clone(),
            b_enc: self.b_enc.clone(),
            b_dec: self.b_dec.clone(),
            skip: self.skip.as_ref().map(rows),
            activation: self.activation.clone(),
            normalize: self.normalize,
            subtract_b_dec: self.subtract_b_dec,
            rescale_by_decoder_norm: self.decoder_norms.is_some(),
            origin: self.origin.clone(),
        }
    }

    /// Values of a row that goes in.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Values of a row that comes out; those of one that goes in, but for transcoders.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// Latents.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What makes latents of pre-activations.
    pub fn activation(&self) -> &Activation {
        &self.activation
    }

    /// What is done to rows before they are encoded.
    pub fn normalize(&self) -> Normalize {
        self.normalize
    }

    /// Whether `b_dec` is subtracted before encoding.
    pub fn subtracts_b_dec(&self) -> bool {
        self.subtract_b_dec
    }

    /// Where it comes from, as its file says.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The direction of a latent, `(d_out)`; `None` for one that does not exist.
    pub fn direction(&self, latent: usize) -> Option<&[f32]> {
        self.decoder.get(latent * self.d_out..(latent + 1) * self.d_out)
    }

    /// What is added to every reconstruction, `(d_out)`.
    pub fn b_dec(&self) -> &[f32] {
        &self.b_dec
    }

    /// Refuses rows that are not whole.
    fn rows(&self, values: usize, width: usize) -> Result<usize, SaeError> {
        if values.is_multiple_of(width) {
            return Ok(values / width);
        }
        Err(SaeError::Rows { values, width })
    }
}

impl std::fmt::Debug for Sae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sae")
            .field("d_in", &self.d_in)
            .field("width", &self.width)
            .field("activation", &self.activation.name())
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
