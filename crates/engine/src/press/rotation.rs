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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rope::RopeScaling;

    /// A row as a rotation table turns it.
    fn rotated(row: &[f32], spec: &RopeSpec, position: u32) -> Vec<f32> {
        let mut table = RopeTable::default();
        spec.fill(&[position], false, &mut table);
        let (mut out, pairs) = (row.to_vec(), spec.rotated() / 2);
        for i in 0..pairs {
            let (a, b) = (row[i], row[i + pairs]);
            out[i] = a * table.cos[i] - b * table.sin[i];
            out[i + pairs] = b * table.cos[i] + a * table.sin[i];
        }
        out
    }

    #[test]
    fn turning_a_key_back_is_having_rotated_it_for_its_new_position_whatever_the_scaling() {
        let long = |divisor: f64| vec![divisor; 8];
        let scalings = [
            RopeScaling::None,
            RopeScaling::Linear { factor: 4.0 },
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 },
            RopeScaling::Yarn { factor: 4.0, original: 64, attention_factor: None, beta_fast: 32.0, beta_slow: 1.0 },
            RopeScaling::Yarn {
                factor: 4.0,
                original: 64,
                attention_factor: Some(1.3),
                beta_fast: 32.0,
                beta_slow: 1.0,
            },
            RopeScaling::Long {
                short: long(1.5),
                long: long(3.0),
                original: 64,
                context: 256,
                attention_factor: Some(1.2),
            },
        ];
        // 16 of 20 channels turn
        let key: Vec<f32> = (0..20).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        for scaling in scalings {
            let spec = RopeSpec::new(16, 10_000.0, &scaling).unwrap();
            for (from, to) in [(5, 5), (5, 0), (60, 7), (63, 62)] {
                let mut turned = rotated(&key, &spec, from);
                Turner::new(&spec, false).back(&mut turned, from, to);
                for (a, b) in turned.iter().zip(rotated(&key, &spec, to)) {
                    assert!((a - b).abs() < 1e-5, "{scaling:?}, {from} to {to}: {a} {b}");
                }
                unrotated_rows(&spec, false, &[to], &mut turned);
                let off = turned.iter().zip(&key).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-5, "{scaling:?}, {to} off: {off}");
            }
        }
    }
}
