//! The position table for another size of image.
//!
//! Each row of the new table is a weighted sum of rows of the old one, so resampling is a sparse linear map: its
//! transpose carries gradients back.

use crate::image::Filter;
use crate::image::taps::{cubic, taps};

/// For each new position the old ones it is made of, with their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionTaps(pub Vec<Vec<(usize, f32)>>);

/// The map from a table of `from` (rows, columns) to one of `to`. Bicubic: of slope -0.75, reading four rows whatever the
/// factor is and repeating the edge, or, `antialias`ed, of slope -0.5, widened by the factor of reduction. The same size
/// is the identity.
pub fn position_taps(from: (usize, usize), to: (usize, usize), antialias: bool) -> PositionTaps {
    if from == to {
        return PositionTaps((0..from.0 * from.1).map(|i| vec![(i, 1.0)]).collect());
    }
    let (rows, columns) = (axis(from.0, to.0, antialias), axis(from.1, to.1, antialias));
    let mut all = Vec::with_capacity(to.0 * to.1);
    for row in &rows {
        for column in &columns {
            let mut sums: Vec<(usize, f64)> = Vec::with_capacity(row.len() * column.len());
            for &(y, v) in row {
                for &(x, w) in column {
                    let at = y * from.1 + x;
                    match sums.iter_mut().find(|(i, _)| *i == at) {
                        Some((_, sum)) => *sum += v * w,
                        None => sums.push((at, v * w)),
                    }
                }
            }
            all.push(sums.into_iter().map(|(i, w)| (i, w as f32)).collect());
        }
    }
    PositionTaps(all)
}

fn axis(from: usize, to: usize, antialias: bool) -> Vec<Vec<(usize, f64)>> {
    if antialias {
        let tap = |t: crate::image::taps::Tap| t.weights.iter().enumerate().map(|(i, w)| (t.first + i, *w)).collect();
        return taps(from, to, 0..to, Filter::Bicubic).into_iter().map(tap).collect();
    }
    let scale = from as f64 / to as f64;
    let one = |i: usize| {
        let centre = (i as f64 + 0.5) * scale - 0.5;
        let floor = centre.floor();
        let at = |j: i64| {
            let index = (floor as i64 + j).clamp(0, from as i64 - 1) as usize;
            (index, cubic((centre - floor - j as f64).abs(), -0.75))
        };
        (-1..=2).map(at).collect()
    };
    (0..to).map(one).collect()
}

impl PositionTaps {
    /// `table` (old positions, width) to `out` (new positions, width).
    pub fn apply(&self, table: &[f32], width: usize, out: &mut [f32]) {
        for (taps, out) in self.0.iter().zip(out.chunks_exact_mut(width)) {
            out.fill(0.0);
            for &(i, w) in taps {
                out.iter_mut().zip(&table[i * width..]).for_each(|(o, t)| *o += w * t);
            }
        }
    }

    /// The gradient of the new table, added to that of the old one.
    pub fn transposed(&self, d_out: &[f32], width: usize, d_table: &mut [f32]) {
        for (taps, d) in self.0.iter().zip(d_out.chunks_exact(width)) {
            for &(i, w) in taps {
                d_table[i * width..][..width].iter_mut().zip(d).for_each(|(t, d)| *t += w * d);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_the_same_size_is_the_identity() {
        for antialias in [false, true] {
            for (from, to) in [((4, 4), (6, 5)), ((37, 37), (16, 16)), ((3, 2), (1, 9))] {
                for taps in position_taps(from, to, antialias).0 {
                    assert!((taps.iter().map(|t| t.1).sum::<f32>() - 1.0).abs() < 1e-5);
                    assert!(taps.iter().all(|t| t.0 < from.0 * from.1));
                }
            }
            let table: Vec<f32> = (0..12).map(|i| i as f32 / 7.0).collect();
            let mut out = vec![0.0; 12];
            position_taps((3, 2), (3, 2), antialias).apply(&table, 2, &mut out);
            assert_eq!(out, table);
        }
    }
}
