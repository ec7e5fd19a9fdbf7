//! To Q4_0: the value of largest magnitude becomes -8.

use super::super::Q4_0;
use super::super::q4_0::pack_nibbles;
use super::{Quantize, centred_step, even, finite_half, inverse, put_half};

impl Quantize for Q4_0 {
    const RANGE: (f32, f32) = even(8.0);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let d = centred_step(values, 8.0);
        let inverse = inverse(d);
        put_half(block, 0, finite_half(d));
        let q = std::array::from_fn(|i| (values[i] * inverse + 8.5).clamp(0.0, 15.0) as u8);
        block[2..].copy_from_slice(&pack_nibbles(q));
    }
}
