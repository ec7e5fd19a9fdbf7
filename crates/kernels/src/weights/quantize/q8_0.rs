//! To Q8_0: the largest magnitude becomes 127.

use super::super::Q8_0;
use super::{HALF_MAX, Quantize, finite_half, inverse, put_half};

impl Quantize for Q8_0 {
    const RANGE: (f32, f32) = (-128.0 * HALF_MAX, 127.0 * HALF_MAX);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let largest = values.iter().fold(0f32, |best, v| best.max(v.abs()));
        let d = (largest / 127.0).min(HALF_MAX);
        let inverse = inverse(d);
        put_half(block, 0, finite_half(d));
        for (byte, v) in block[2..].iter_mut().zip(values) {
            // halves go away from zero; the cast holds what a scale at its end lets overflow
            *byte = (v * inverse).round() as i8 as u8;
        }
    }
}
