//! To Q4_K: eight runs of 32 with 6-bit scales and minimums.

use super::super::Q4K;
use super::affine::{self, Limits};
use super::{HALF_MAX, Quantize, put_half};

impl Quantize for Q4K {
    const RANGE: (f32, f32) = (-63.0 * HALF_MAX, 63.0 * 15.0 * HALF_MAX);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = affine::search::<8, 32>(values, Limits { q: 15.0, field: 63.0 });
        put_half(block, 0, found.d);
        put_half(block, 2, found.dmin);
        block[4..16].copy_from_slice(&pack_scales(&found.scales, &found.mins));
        pack_runs(&found.q, &mut block[16..]);
    }
}

/// Eight 6-bit scales and minimums in twelve bytes: the reverse of `scales::scale_min`.
pub(super) fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | (mins[i - 4] & 15) << 4,
    })
}

/// Low four bits: 32 bytes hold one run of 32 in their low nibbles and the next in their high ones.
pub(super) fn pack_runs(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = q[l] & 15 | (q[l + 32] & 15) << 4;
        }
    }
}
