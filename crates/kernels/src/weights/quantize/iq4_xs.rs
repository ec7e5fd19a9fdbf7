//! To IQ4_XS: eight runs of 32 with signed 6-bit scales, on the levels of IQ4_NL.

use super::super::Iq4Xs;
use super::super::q4_0::pack_nibbles;
use super::iq4_nl::{Uneven, index};
use super::symmetric;
use super::{Quantize, even, put_half};

impl Quantize for Iq4Xs {
    const RANGE: (f32, f32) = even(32.0 * 127.0);

    #[inline(always)]
    fn quantize(values: &[f32], block: &mut [u8]) {
        let found = symmetric::search::<Uneven, 8, 32>(values, 32.0);
        let scales = found.scales.map(|s| (s + 32) as u8);
        put_half(block, 0, found.d);
        for i in 0..2 {
            block[2 + i] = (0..4).fold(0, |bits, n| bits | scales[4 * i + n] >> 4 << (2 * n));
        }
        for i in 0..4 {
            block[4 + i] = scales[2 * i] & 15 | (scales[2 * i + 1] & 15) << 4;
        }
        for (levels, out) in found.q.as_chunks::<32>().0.iter().zip(block[8..].chunks_exact_mut(16)) {
            out.copy_from_slice(&pack_nibbles(levels.map(index)));
        }
    }
}
