//! To Q8_0: the largest magnitude becomes 127.

use super::super::Q8_0;
use super::{Quantize, finite_half, inverse, put_half};
use half::f16;

impl Quantize for Q8_0 {
    fn quantize(values: &[f32], block: &mut [u8]) {
        let largest = values.iter().fold(0f32, |best, v| best.max(v.abs()));
        let d = (largest / 127.0).min(f16::MAX.to_f32());
        let inverse = inverse(d);
        put_half(block, 0, finite_half(d));
        for (byte, v) in block[2..].iter_mut().zip(values) {
            // halves go away from zero; the cast holds what a scale at its end lets overflow
            *byte = (v * inverse).round() as i8 as u8;
        }
    }
}
