//! To Q5_0: the value of largest magnitude becomes -16.

use super::super::Q5_0;
use super::super::q4_0::pack_nibbles;
use super::{Quantize, centred_step, even, finite_half, inverse, put_half};

impl Quantize for Q5_0 {
    const RANGE: (f32, f32) = even(16.0);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let d = centred_step(values, 16.0);
        let inverse = inverse(d);
        put_half(block, 0, finite_half(d));
        pack_fives(std::array::from_fn(|i| (values[i] * inverse + 16.5).clamp(0.0, 31.0) as u8), &mut block[2..]);
    }
}

/// 32 integers of five bits: the fifth bits, then nibbles.
pub(super) fn pack_fives(q: [u8; 32], out: &mut [u8]) {
    let high = q.iter().rev().fold(0u32, |bits, q| bits << 1 | u32::from(q >> 4));
    out[..4].copy_from_slice(&high.to_le_bytes());
    out[4..].copy_from_slice(&pack_nibbles(q.map(|q| q & 15)));
}
