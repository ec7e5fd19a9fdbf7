//! To Q5_K: eight runs of 32 with 6-bit scales and minimums.

use super::super::Q5K;
use super::affine::{self, Limits};
use super::q4_k::{pack_runs, pack_scales};
use super::{HALF_MAX, Quantize, put_half};

impl Quantize for Q5K {
    const RANGE: (f32, f32) = (-63.0 * HALF_MAX, 63.0 * 31.0 * HALF_MAX);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = affine::search::<8, 32>(values, Limits { q: 31.0, field: 63.0 });
        put_half(block, 0, found.d);
        put_half(block, 2, found.dmin);
        block[4..16].copy_from_slice(&pack_scales(&found.scales, &found.mins));
        for (l, byte) in block[16..48].iter_mut().enumerate() {
            *byte = (0..8).fold(0, |bits, n| bits | found.q[32 * n + l] >> 4 << n);
        }
        pack_runs(&found.q, &mut block[48..]);
    }
}
