//! To Q3_K: sixteen runs of 16 with signed 6-bit scales.

use super::super::Q3K;
use super::q2_k::pack_twos;
use super::symmetric::{self, Even};
use super::{Quantize, even, put_half};

impl Quantize for Q3K {
    const RANGE: (f32, f32) = even(32.0 * 4.0);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = symmetric::search::<Even<4>, 16, 16>(values, 32.0);
        let q = found.q.map(|q| (q + 4) as u8);
        for (l, byte) in block[..32].iter_mut().enumerate() {
            *byte = (0..8).fold(0, |bits, n| bits | q[32 * n + l] >> 2 << n);
        }
        pack_twos(&q.map(|q| q & 3), &mut block[32..96]);
        let scales = found.scales.map(|s| (s + 32) as u8);
        for i in 0..8 {
            block[96 + i] = scales[i] & 15 | (scales[i + 8] & 15) << 4;
        }
        for i in 0..4 {
            block[104 + i] = (0..4).fold(0, |bits, n| bits | scales[i + 4 * n] >> 4 << (2 * n));
        }
        put_half(block, 108, found.d);
    }
}
