//! The main direction of the rotated queries (arXiv 2503.02812).
//!
//! For each query head the first right singular vector v of the queries, which is the first eigenvector of `QᵀQ`; its
//! sign is that of most queries' products with it; the filter is minus the mean over the group. `QᵀQ` is summed over
//! all tokens, where the published recipe draws 3,000 rows; the vote on the sign is taken on a sample.

use std::sync::{Arc, Mutex};

use meden_stats::eigen;

use super::{Tensor, Texts};
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

/// Queries a head that vote on the sign.
const VOTERS: usize = 512;

/// What is gathered for a layer.
#[derive(Default)]
struct Layer {
    /// `(q_heads, head_dim, head_dim)`.
    products: Vec<f64>,
    /// Some queries, `(voters, q_heads, head_dim)`.
    voters: Vec<f32>,
}

struct Gather {
    layers: Mutex<Vec<Layer>>,
    /// Every so many-th token votes.
    stride: u32,
}

impl Press for Gather {
    fn name(&self) -> &'static str {
        "qfilter"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, layer: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Err(layer.missing(self.name(), "score while it gathers"))
    }

    fn observe(&self, piece: &Piece<'_>, _: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        let c = piece.model.config();
        let (heads, dim) = (c.q_heads, c.head_dim);
        let Ok(mut layers) = self.layers.lock() else { return Ok(()) };
        let layer = &mut layers[piece.layer];
        layer.products.resize(heads * dim * dim, 0.0);
        piece.model.pool().chunks(&mut layer.products, dim * dim, |head, sums| {
            for row in piece.q.chunks_exact(heads * dim) {
                let q = &row[head * dim..(head + 1) * dim];
                for (sums, &a) in sums.chunks_exact_mut(dim).zip(q) {
                    sums.iter_mut().zip(q).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
                }
            }
        });
        for (row, position) in piece.q.chunks_exact(heads * dim).zip(piece.positions) {
            if position.is_multiple_of(self.stride) && layer.voters.len() < VOTERS * heads * dim {
                layer.voters.extend_from_slice(row);
            }
        }
        Ok(())
    }
}

impl Layer {
    /// The filter of a kv head, `(head_dim)`.
    fn filter(&self, c: &Config, kv_head: usize) -> Vec<f32> {
        let (dim, group) = (c.head_dim, c.group());
        let mut filter = vec![0f64; dim];
        if self.products.is_empty() {
            return vec![0.0; dim]; // a sliding layer: no press acts there
        }
        for q_head in kv_head * group..(kv_head + 1) * group {
            let products = self.products[q_head * dim * dim..(q_head + 1) * dim * dim].to_vec();
            let v = eigen::symmetric(products, dim).vectors[..dim].to_vec();
            let rows = self.voters.chunks_exact(c.q_heads * dim);
            let voters = rows.len();
            let along =
                |row: &[f32]| row[q_head * dim..].iter().zip(&v).map(|(&q, v)| f64::from(q) * v).sum::<f64>() > 0.0;
            let sign = if 2 * rows.filter(|row| along(row)).count() > voters { 1.0 } else { -1.0 };
            filter.iter_mut().zip(&v).for_each(|(f, v)| *f -= sign * v / group as f64);
        }
        filter.iter().map(|&f| f as f32).collect()
    }
}

pub(super) fn run(texts: &mut Texts<'_, '_>) -> Result<Vec<Tensor>, EngineError> {
    let c = texts.model.config().clone();
    let tokens: usize = texts.sequences.iter().map(Vec::len).sum();
    let layers = Mutex::new((0..c.layers).map(|_| Layer::default()).collect());
    let gather = Arc::new(Gather { layers, stride: tokens.div_ceil(VOTERS) as u32 });
    texts.read(&[gather.clone() as Arc<dyn Press>], |_, _| Ok(()))?;
    let layers = gather.layers.lock().map_err(|_| EngineError::Poisoned)?;
    let values = layers.iter().flat_map(|layer| (0..c.kv_heads).flat_map(|head| layer.filter(&c, head))).collect();
    Ok(vec![Tensor { name: "q_filters".into(), shape: vec![c.layers, c.kv_heads, c.head_dim], values }])
}
