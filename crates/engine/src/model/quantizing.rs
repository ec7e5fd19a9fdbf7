//! Weights into another format while they are loaded.

use std::sync::{Mutex, PoisonError};

use meden_files::quantize::{Clamped, Outline, Recipe, Substitutes};
use meden_files::{TensorInfo, names};
use meden_kernels::dtype::DType;
use meden_kernels::pool::Pool;
use meden_kernels::{KernelError, weights};

use super::load::lock;
use super::watch::Watched;
use crate::error::EngineError;

/// Values converted between two looks at whether to stop.
const PIECE: usize = 1 << 22;

/// The formats that a recipe gives, and what had to give way on the way there.
pub(super) struct Quantizing<'a> {
    pub recipe: Recipe,
    /// What of the model decides.
    pub outline: Outline,
    pub architecture: &'a str,
    substitutes: Mutex<Substitutes>,
    clamped: Mutex<Clamped>,
}

/// Some rows of a tensor, as the file has them but for their order.
pub(super) struct Rows<'a> {
    pub info: &'a TensorInfo,
    pub cols: usize,
    pub bytes: Vec<u8>,
    /// Which row of the tensor each of them is.
    pub in_file: &'a dyn Fn(usize) -> usize,
}

impl<'a> Quantizing<'a> {
    pub(super) fn new(recipe: Recipe, outline: Outline, architecture: &'a str) -> Self {
        Quantizing { recipe, outline, architecture, substitutes: Mutex::default(), clamped: Mutex::default() }
    }

    /// Rows in the format that their tensor gets. Substitutes are counted with the part that holds the first row.
    pub(super) fn apply(
        &self,
        pool: &Pool,
        rows: Rows<'_>,
        watched: &Watched<'_>,
    ) -> Result<(DType, Vec<u8>), EngineError> {
        let Rows { info, cols, bytes, in_file } = rows;
        let choice = self.recipe.choose(self.outline, &names::to_gguf(self.architecture, &info.name), &info.shape);
        if in_file(0) == 0 {
            lock(&self.substitutes).count(choice);
        }
        let row = |dtype: DType| dtype.row_bytes(cols).filter(|&row| row > 0);
        let (Some(from), Some(to)) = (row(info.dtype), row(choice.dtype)) else {
            let source = KernelError::Columns { dtype: choice.dtype, block: choice.dtype.block_len(), cols };
            return Err(EngineError::Quantize { tensor: info.name.clone(), source });
        };
        let same = choice.dtype == info.dtype;
        let mut out = if same { Vec::new() } else { vec![0; bytes.len() / from * to] };
        let piece = (PIECE / cols).max(1);
        for (number, piece_bytes) in bytes.chunks(piece * from).enumerate() {
            let first = number * piece;
            let done = if same {
                weights::check(pool, info.dtype, cols, piece_bytes).map(|()| 0)
            } else {
                let room = &mut out[first * to..][..piece_bytes.len() / from * to];
                weights::convert(pool, (info.dtype, choice.dtype), cols, piece_bytes, room)
            };
            let beyond = done.map_err(|source| {
                let source = match source {
                    KernelError::NotFinite { index, value } => {
                        let index = in_file(first + index / cols) * cols + index % cols;
                        KernelError::NotFinite { index, value }
                    }
                    other => other,
                };
                EngineError::Quantize { tensor: info.name.clone(), source }
            })?;
            lock(&self.clamped).count(&info.name, choice.dtype, beyond);
            watched.step(piece_bytes.len())?;
        }
        Ok(if same { (info.dtype, bytes) } else { (choice.dtype, out) })
    }

    /// Vectors are not quantised, but looked at, as `meden quantize` does.
    pub(super) fn check(&self, info: &TensorInfo, values: &[f32]) -> Result<(), EngineError> {
        let Some(index) = values.iter().position(|v| !v.is_finite()) else { return Ok(()) };
        let source = KernelError::NotFinite { index, value: values[index].to_string() };
        Err(EngineError::Quantize { tensor: info.name.clone(), source })
    }

    /// What gave way.
    pub(super) fn into_counts(self) -> (Substitutes, Clamped) {
        let substitutes = self.substitutes.into_inner().unwrap_or_else(PoisonError::into_inner);
        (substitutes, self.clamped.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
