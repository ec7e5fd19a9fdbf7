//! The tuned lens (Belrose et al., arXiv 2303.08112): before the unembedding, each stream is moved by a small affine map
//! to where the last one would be: `h + A h + b`.
//!
//! Translator `i` belongs to what enters block `i` (`hidden_states[i]` of transformers): number 0 to the embedding, none
//! to the last stream. With `A = 0` and `b = 0` it is the logit lens.

mod file;
mod train;

use meden_engine::{EngineError, Model, Site};
use meden_kernels::matmul::{Activations, Matrix, Needs, matmul};

pub use file::unembedding_sha256;
pub use train::{Fit, TrainOptions, train};

use crate::error::LensError;
use crate::place::Place;

/// One affine map.
pub(crate) struct Translator {
    /// `(hidden, hidden)`; `None` for zero.
    weight: Option<Matrix>,
    /// `(hidden)`.
    bias: Vec<f32>,
}

impl Translator {
    fn new(isa: meden_engine::Isa, weight: Vec<f32>, bias: Vec<f32>) -> Result<Translator, LensError> {
        if weight.iter().all(|&w| w == 0.0) {
            return Ok(Translator { weight: None, bias });
        }
        let weight = Matrix::from_f32(bias.len(), bias.len(), weight, isa).map_err(EngineError::from)?;
        Ok(Translator { weight: Some(weight), bias })
    }

    /// `h + A h + b` for rows `(rows, hidden)`.
    fn apply(&self, model: &Model, rows: &[f32]) -> Result<Vec<f32>, LensError> {
        let hidden = self.bias.len();
        let mut out = rows.to_vec();
        if let Some(matrix) = &self.weight {
            let mut moved = vec![0f32; rows.len()];
            let mut activations = Activations::new();
            activations.set_for(model.pool(), rows, hidden, model.isa(), Needs::of(&[matrix]));
            matmul(model.pool(), &activations, matrix, &mut moved).map_err(EngineError::from)?;
            out.iter_mut().zip(&moved).for_each(|(x, m)| *x += m);
        }
        if self.bias.iter().any(|&b| b != 0.0) {
            for row in out.chunks_exact_mut(hidden) {
                row.iter_mut().zip(&self.bias).for_each(|(x, b)| *x += b);
            }
        }
        Ok(out)
    }
}

/// Translators of all layers of a model.
pub struct TunedLens {
    translators: Vec<Translator>,
    hidden: usize,
    /// SHA-256 of the unembedding it was made for, where the file says it.
    unembedding: Option<String>,
}

impl TunedLens {
    /// The identity: what training starts from.
    pub fn identity(model: &Model) -> TunedLens {
        let c = model.config();
        let none = || Translator { weight: None, bias: vec![0.0; c.hidden] };
        TunedLens {
            translators: (0..c.layers).map(|_| none()).collect(),
            hidden: c.hidden,
            unembedding: Some(unembedding_sha256(model)),
        }
    }

    /// Number of translators, one a layer.
    pub fn layers(&self) -> usize {
        self.translators.len()
    }

    /// Whether it fits a model by shape.
    ///
    /// # Errors
    /// Another width or depth.
    pub fn check(&self, model: &Model) -> Result<(), LensError> {
        let c = model.config();
        if (self.hidden, self.translators.len()) == (c.hidden, c.layers) {
            return Ok(());
        }
        let found = format!("{} translators of width {}", self.translators.len(), self.hidden);
        Err(LensError::setting("tuned lens", found, format!("the model has {} layers of {}", c.layers, c.hidden)))
    }

    /// A line for the user where the lens was made for another unembedding, or does not say for which.
    pub fn note(&self, model: &Model) -> Option<String> {
        match &self.unembedding {
            None => Some("the tuned lens does not say for which model it was made".into()),
            Some(hash) if *hash != unembedding_sha256(model) => {
                Some("the tuned lens was made for other output weights (another model or quantisation)".into())
            }
            Some(_) => None,
        }
    }

    /// `h + A h + b` for rows `(rows, hidden)` of a place.
    ///
    /// # Errors
    /// A place that has no translator.
    pub fn translate(&self, model: &Model, place: Place, rows: &[f32]) -> Result<Vec<f32>, LensError> {
        let number = match place.site {
            Site::ResidPre => place.layer,
            Site::ResidPost => place.layer + 1,
            _ => return Err(LensError::setting("site", place, "a tuned lens reads resid_pre and resid_post")),
        };
        match self.translators.get(number) {
            Some(translator) => translator.apply(model, rows),
            None => Ok(rows.to_vec()), // the last stream is where it should be
        }
    }
}
