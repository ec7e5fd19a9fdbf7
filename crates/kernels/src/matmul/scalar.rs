//! The scalar twin: what every kernel has to agree with, in plain Rust.
//!
//! Integers and scales are the very ones the fast path uses; only the rounding of float sums may differ.

use super::activations::{BlockSums, Blocks, TINY};
use crate::DType;
use crate::weights::panel::{FLOAT_ROWS, QUANT_ROWS, gather_block};
use crate::weights::{Format, MAX_BLOCK, SUB, bf16_to_f32, f16_to_f32};
use std::ops::Range;

/// 32 values to int8 and their sums. A value that is not finite makes the scale NaN.
pub(super) fn quantize_block(values: &[f32; SUB], q: &mut [i8; SUB]) -> BlockSums {
    // As integers, magnitudes order like the floats they are, and NaN comes out on top instead of vanishing.
    let largest = values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let largest = f32::from_bits(largest);
    if !(TINY..f32::INFINITY).contains(&largest) {
        *q = [0; SUB];
        let scale = if largest < TINY { 0.0 } else { f32::NAN };
        return BlockSums { scale, halves: [0; 2] };
    }
    let inverse = 127.0 / largest;
    for (q, v) in q.iter_mut().zip(values) {
        *q = (v * inverse).round_ties_even() as i8;
    }
    let sum = |half: &[i8]| half.iter().map(|&q| i32::from(q)).sum();
    BlockSums { scale: largest / 127.0, halves: [sum(&q[..16]), sum(&q[16..])] }
}

/// Rows `rows` of the activations times a quantised panel; `tile`: (rows, 8).
pub(super) fn quant_panel<F: Format>(panel: &[u8], x: &Blocks, rows: Range<usize>, tile: &mut [f32]) {
    tile.fill(0.0);
    let per_block = F::DTYPE.block_len() / SUB;
    let mut block = [0; MAX_BLOCK];
    for (b, panel_block) in panel.chunks_exact(F::DTYPE.block_bytes() * QUANT_ROWS).enumerate() {
        for r in 0..QUANT_ROWS {
            gather_block::<F>(panel_block, r, &mut block);
            for s in 0..per_block {
                let sub = F::unpack(&block, s);
                for (i, out) in rows.clone().zip(tile.chunks_exact_mut(QUANT_ROWS)) {
                    let at = (b * per_block + s) * x.rows + i;
                    let q = &x.q[at * SUB..][..SUB];
                    let scale = x.scale_sum[at][0];
                    for half in 0..2 {
                        let span = 16 * half..16 * (half + 1);
                        let dot: i32 = sub.q[span.clone()]
                            .iter()
                            .zip(&q[span])
                            .map(|(&w, &a)| (i32::from(w) - i32::from(F::OFFSET)) * i32::from(a))
                            .sum();
                        out[r] += sub.scale[half] * scale * dot as f32;
                        out[r] += sub.min[half] * x.halves[at][half];
                    }
                }
            }
        }
    }
}

/// Rows `x`: (rows, cols) times a panel of plain floats (cols, 16); `tile`: (rows, 16).
pub(super) fn float_panel(dtype: DType, panel: &[u8], x: &[f32], cols: usize, tile: &mut [f32]) {
    let unit = dtype.block_bytes();
    let widen = |bytes: &[u8]| match (dtype, bytes) {
        (DType::F16, &[a, b]) => f16_to_f32([a, b]),
        (DType::BF16, &[a, b]) => bf16_to_f32([a, b]),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => 0.0, // a unit has two or four bytes
    };
    tile.fill(0.0);
    let mut lanes = [0f32; FLOAT_ROWS];
    for (k, packed) in panel.chunks_exact(unit * FLOAT_ROWS).enumerate() {
        for (lane, bytes) in lanes.iter_mut().zip(packed.chunks_exact(unit)) {
            *lane = widen(bytes);
        }
        for (x, out) in x.chunks_exact(cols).zip(tile.chunks_exact_mut(FLOAT_ROWS)) {
            for (out, lane) in out.iter_mut().zip(&lanes) {
                *out += x[k] * lane;
            }
        }
    }
}
