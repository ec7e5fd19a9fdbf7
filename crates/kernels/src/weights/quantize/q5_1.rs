//! To Q5_1: 32 levels from the smallest value to the largest.

use super::super::Q5_1;
use super::q5_0::pack_fives;
use super::{HALF_MAX, Quantize, even_levels, finite_half, inverse, put_half};

impl Quantize for Q5_1 {
    const RANGE: (f32, f32) = (-HALF_MAX, 31.0 * HALF_MAX);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let (d, min) = even_levels(values, 32.0);
        let inverse = inverse(d);
        put_half(block, 0, finite_half(d));
        put_half(block, 2, finite_half(min));
        let q = std::array::from_fn(|i| ((values[i] - min) * inverse + 0.5).clamp(0.0, 31.0) as u8);
        pack_fives(q, &mut block[4..]);
    }
}
