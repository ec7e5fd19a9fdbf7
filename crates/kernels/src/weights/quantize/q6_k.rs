//! To Q6_K: sixteen runs of 16 with signed 8-bit scales.

use super::super::Q6K;
use super::symmetric::{self, Even};
use super::{Quantize, even, put_half};

impl Quantize for Q6K {
    const RANGE: (f32, f32) = even(128.0 * 32.0);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = symmetric::search::<Even<32>, 16, 16>(values, 128.0);
        let q = found.q.map(|q| (q + 32) as u8);
        for (half, q) in q.chunks_exact(128).enumerate() {
            for l in 0..32 {
                let [a, b, c, d] = [q[l], q[l + 32], q[l + 64], q[l + 96]];
                block[64 * half + l] = a & 15 | (c & 15) << 4;
                block[64 * half + 32 + l] = b & 15 | (d & 15) << 4;
                block[128 + 32 * half + l] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
        }
        for (byte, s) in block[192..208].iter_mut().zip(found.scales) {
            *byte = s as u8;
        }
        put_half(block, 208, found.d);
    }
}
