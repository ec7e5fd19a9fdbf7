//! To IQ4_NL: one scale for 32 values, each the nearest of the sixteen levels.

use super::super::Format;
use super::super::iq4_nl::{Iq4Nl, LEVELS};
use super::super::q4_0::pack_nibbles;
use super::symmetric::{self, Levels};
use super::{Quantize, even, put_half};

/// The sixteen uneven levels.
pub(super) struct Uneven;

impl Levels for Uneven {
    const END: f32 = LEVELS[0] as f32;
    // the gap to the next level is 23: beyond half of it the largest value would round to another level
    const SPREAD: f32 = 11.0;
    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        // one step up for each middle between two levels that lies below: no table look-up, so it vectorises
        let mut level = Self::END;
        for pair in LEVELS.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            level += if v > 0.5 * (low + high) { high - low } else { 0.0 };
        }
        level
    }
}

impl Quantize for Iq4Nl {
    const RANGE: (f32, f32) = even(127.0);
    const TOGETHER: usize = symmetric::BESIDE;

    #[inline(always)]
    fn quantize(values: &[f32], blocks: &mut [u8]) {
        let found = symmetric::search_each::<Uneven>(values);
        for (block, (d, levels)) in blocks.chunks_exact_mut(Self::DTYPE.block_bytes()).zip(found) {
            put_half(block, 0, d);
            block[2..].copy_from_slice(&pack_nibbles(levels.map(index)));
        }
    }
}

/// The nibble of a level.
pub(super) fn index(level: i8) -> u8 {
    LEVELS.partition_point(|&l| l < level) as u8
}
