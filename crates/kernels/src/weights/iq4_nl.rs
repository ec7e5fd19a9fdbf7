//! IQ4_NL: 32 values a block, `d * table[q]`.
//!
//! `f16 d`, then nibbles as in Q4_0; the nibble picks one of sixteen unevenly spaced levels, dense around
//! zero where weights are.

use super::q4_0::unpack_nibbles;
use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

/// The sixteen levels, a constant of the format (shared with IQ4_XS).
pub(super) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(crate) struct Iq4Nl;

impl Format for Iq4Nl {
    const DTYPE: DType = DType::IQ4NL;
    const KIND: Kind = Kind::S8;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = false;
    const FIELDS: &'static [Field] = &[Field::new(2, Unit::Half), Field::new(16, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), 0.0);
        unpack_nibbles(&block[2..18], &mut sub.q);
        sub.q = sub.q.map(|q| LEVELS[q as usize]);
        sub
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Iq4Nl {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{halves8, offset_regs};
        // SAFETY: 16 bytes of scales and 128 of nibbles make the panel block.
        unsafe { offset_regs(levels(block.add(16)), halves8(block), 0) }
    }
}

/// Nibbles of eight rows to levels.
///
/// # Safety
/// AVX2 is there; 128 bytes are readable at `field`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn levels(field: *const u8) -> [std::arch::x86_64::__m256i; 8] {
    use super::avx2::nibbles;
    use std::arch::x86_64::*;
    // SAFETY: the table has 16 bytes, and the caller vouches for the field.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(LEVELS.as_ptr().cast()));
        let mut w = nibbles(field);
        for w in &mut w {
            *w = _mm256_shuffle_epi8(table, *w);
        }
        w
    }
}
