//! The packed 6-bit scales of Q4_K and Q5_K: eight scales and eight minimums in twelve bytes.
//!
//! Numbers 0..=3 take the low six bits of bytes 0..=3 (scales) and 4..=7 (minimums). Numbers 4..=7 have
//! their low four bits in the nibbles of bytes 8..=11 and their high two bits on top of the first eight.

/// Scale and minimum number `index` (0..=7).
pub(super) fn scale_min(packed: &[u8], index: usize) -> (u8, u8) {
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

    use crate::weights::avx2::{bytes8, to_f32};
    use std::arch::x86_64::*;

    /// Scale and minimum number `index` of eight rows, from the interleaved bytes (12, 8) at `packed`.
    ///
    /// # Safety
    /// AVX2 is there; 96 bytes are readable at `packed`; `index < 8`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::weights) unsafe fn scale_min8(packed: *const u8, index: usize) -> (__m256, __m256) {
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
