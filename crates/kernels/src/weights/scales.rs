//! The packed 6-bit scales of Q4_K and Q5_K: eight scales and eight minimums in twelve bytes.
//!
//! Both formats begin with `f16 d`, `f16 dmin` and these bytes; a run's scale is `d * s`, its minimum `-dmin * m`.
//!
//! Numbers 0..=3 take the low six bits of bytes 0..=3 (scales) and 4..=7 (minimums). Numbers 4..=7 have
//! their low four bits in the nibbles of bytes 8..=11 and their high two bits on top of the first eight.

use super::{Sub, half_at};

/// Bytes of `d`, `dmin` and the packed scales: what follows differs between the formats.
pub(super) const HEAD: usize = 16;

/// A run of the block with its scale and minimum, its integers to be filled.
pub(super) fn run(block: &[u8], sub: usize) -> Sub {
    let (scale, min) = scale_min(&block[4..HEAD], sub);
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    Sub::uniform(d * f32::from(scale), -(dmin * f32::from(min)))
}

/// Scale and minimum number `index` (0..=7).
fn scale_min(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (packed[index] & 63, packed[index + 4] & 63);
    }
    let low = packed[index + 4];
    let scale = (low & 15) | (packed[index - 4] >> 6 << 4);
    let min = (low >> 4) | (packed[index] >> 6 << 4);
    (scale, min)
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    //! The same for eight rows at once.

    use crate::weights::avx2::{Regs, bytes8, halves8, to_f32};
    use std::arch::x86_64::*;

    /// The integers `w` of run `sub` with the scales and minimums of eight rows, from the interleaved block.
    ///
    /// # Safety
    /// AVX2 is there; the heads of eight blocks are readable at `block`; `sub < 8`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::weights) unsafe fn run8(block: *const u8, sub: usize, w: [__m256i; 8]) -> Regs {
        // SAFETY: the offsets are eight times those of the file's block.
        unsafe {
            let (scale, min) = scale_min8(block.add(32), sub);
            let scale = _mm256_mul_ps(halves8(block), scale);
            let dmin = _mm256_sub_ps(_mm256_setzero_ps(), halves8(block.add(16)));
            let min = _mm256_mul_ps(dmin, min);
            Regs { w, scale: [scale; 2], min: [min; 2] }
        }
    }

    /// Scale and minimum number `index` of eight rows, from the interleaved bytes (12, 8) at `packed`.
    ///
    /// # Safety
    /// AVX2 is there; 96 bytes are readable at `packed`; `index < 8`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale_min8(packed: *const u8, index: usize) -> (__m256, __m256) {
        // SAFETY: byte rows 0..12 of eight bytes each are readable, and each index below is less than 12.
        unsafe {
            let low6 = _mm_set1_epi8(63);
            let low4 = _mm_set1_epi8(15);
            let high2 = _mm_set1_epi8(0x30);
            if index < 4 {
                let scale = _mm_and_si128(bytes8(packed, index), low6);
                let min = _mm_and_si128(bytes8(packed, index + 4), low6);
                return (to_f32(scale), to_f32(min));
            }
            let low = bytes8(packed, index + 4);
            // A 16-bit shift moves bits of the neighbour byte in; the masks cut them off again.
            let top = |row: usize| _mm_and_si128(_mm_srli_epi16::<2>(bytes8(packed, row)), high2);
            let scale = _mm_or_si128(_mm_and_si128(low, low4), top(index - 4));
            let min = _mm_or_si128(_mm_and_si128(_mm_srli_epi16::<4>(low), low4), top(index));
            (to_f32(scale), to_f32(min))
        }
    }
}
