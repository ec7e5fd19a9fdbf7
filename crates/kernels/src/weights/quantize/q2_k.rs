//! To Q2_K: sixteen runs of 16 with 4-bit scales and minimums.

use super::super::Q2K;
use super::affine::{self, Limits};
use super::{HALF_MAX, Quantize, put_half};

impl Quantize for Q2K {
    const RANGE: (f32, f32) = (-15.0 * HALF_MAX, 15.0 * 3.0 * HALF_MAX);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = affine::search::<16, 16>(values, Limits { q: 3.0, field: 15.0 });
        for (byte, (s, m)) in block.iter_mut().zip(found.scales.iter().zip(found.mins)) {
            *byte = s | m << 4;
        }
        pack_twos(&found.q, &mut block[16..80]);
        put_half(block, 80, found.d);
        put_half(block, 82, found.dmin);
    }
}

/// Two-bit values: each half of 128 takes 32 bytes, one run of 32 in each pair of bits.
pub(super) fn pack_twos(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6;
        }
    }
}
