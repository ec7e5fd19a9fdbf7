//! Rotations that presses need: taking a key's rotation off again, the mean rotation of future queries, and turning a
//! key to another position.

use super::view::LayerView;
use crate::cache::head::HeadCache;
use crate::model::rope::{RopeSpec, RopeTable};

/// The rotation of a layer.
pub fn rope<'a>(layer: &'a LayerView<'_>) -> &'a RopeSpec {
    let c = layer.config();
    &c.ropes[c.attention[layer.layer].rope]
}

/// Keys of a head before rotation, `(slots, head_dim)`.
pub fn unrotated_keys(layer: &LayerView<'_>, head: &HeadCache) -> Vec<f32> {
    let mut keys = head.keys();
    unrotated_rows(rope(layer), layer.long_rope, head.positions(), &mut keys);
    keys
}

/// Take the rotation off some rows, one a position.
pub fn unrotated_rows(spec: &RopeSpec, long: bool, positions: &[u32], rows: &mut [f32]) {
    let dim = rows.len() / positions.len().max(1);
    let mut table = RopeTable::default();
    spec.fill(positions, long, &mut table);
    let pairs = spec.rotated() / 2;
    // cosines and sines carry the attention factor f: turning back by the transpose multiplies by f again
    let unscale = 1.0 / (spec.attention_factor() * spec.attention_factor());
    for (slot, key) in rows.chunks_exact_mut(dim.max(1)).enumerate() {
        let (cos, sin) = (&table.cos[slot * pairs..], &table.sin[slot * pairs..]);
        for i in 0..pairs {
            let (a, b) = (key[i], key[i + pairs]);
            key[i] = (a * cos[i] + b * sin[i]) * unscale;
            key[i + pairs] = (b * cos[i] - a * sin[i]) * unscale;
        }
    }
}

/// The mean of the rotations of some positions: a cosine and a sine a pair of channels.
pub struct MeanRotation {
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl MeanRotation {
    /// Over `count` positions from the next token on.
    pub fn of_future(layer: &LayerView<'_>, count: usize) -> MeanRotation {
        let positions: Vec<u32> = (layer.next..layer.next + count.max(1)).map(|p| p as u32).collect();
        MeanRotation::of(layer, &positions)
    }

    /// Over some positions.
    pub fn of(layer: &LayerView<'_>, positions: &[u32]) -> MeanRotation {
        let spec = rope(layer);
        let mut table = RopeTable::default();
        spec.fill(positions, layer.long_rope, &mut table);
        let pairs = spec.rotated() / 2;
        let mean = |values: &[f32]| {
            let mut mean = vec![0f64; pairs];
            for row in values.chunks_exact(pairs) {
                mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v));
            }
            mean.iter_mut().for_each(|m| *m /= positions.len() as f64);
            mean
        };
        MeanRotation { cos: mean(&table.cos), sin: mean(&table.sin) }
    }

    /// Rotate a vector `(head_dim)`; channels beyond the rotated ones stay.
    pub fn turn(&self, x: &mut [f64]) {
        let pairs = self.cos.len();
        for i in 0..pairs {
            let (a, b) = (x[i], x[i + pairs]);
            x[i] = a * self.cos[i] - b * self.sin[i];
            x[i + pairs] = b * self.cos[i] + a * self.sin[i];
        }
    }

    /// `R C Rᵀ` of a symmetric matrix `(head_dim, head_dim)`.
    pub fn turn_both(&self, matrix: &mut [f64], dim: usize) {
        for row in matrix.chunks_exact_mut(dim) {
            self.turn(row); // C Rᵀ
        }
        let mut column = vec![0.0; dim];
        for j in 0..dim {
            (0..dim).for_each(|i| column[i] = matrix[i * dim + j]);
            self.turn(&mut column);
            (0..dim).for_each(|i| matrix[i * dim + j] = column[i]);
        }
    }
}

/// Turns keys from one position to another.
pub struct Turner<'a> {
    spec: &'a RopeSpec,
    long: bool,
    table: RopeTable,
}

impl<'a> Turner<'a> {
    /// For keys rotated by `spec`.
    pub fn new(spec: &'a RopeSpec, long: bool) -> Turner<'a> {
        Turner { spec, long, table: RopeTable::default() }
    }

    /// Turn a key from position `from` back to position `to <= from`.
    pub fn back(&mut self, key: &mut [f32], from: u32, to: u32) {
        self.spec.fill(&[from - to], self.long, &mut self.table);
        let (pairs, factor) = (self.spec.rotated() / 2, self.spec.attention_factor());
        for i in 0..pairs {
            let (a, b) = (key[i], key[i + pairs]);
            let (cos, sin) = (self.table.cos[i] / factor, self.table.sin[i] / factor);
            key[i] = a * cos + b * sin;
            key[i + pairs] = b * cos - a * sin;
        }
    }
}
