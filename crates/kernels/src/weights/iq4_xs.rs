//! IQ4_XS: 256 values a block in runs of 32, `d * (s - 32) * table[q]` with 6-bit `s`.
//!
//! `f16 d`, `u16` with the high two bits of each run's scale, 4 bytes with the low four, then for each run
//! 16 bytes of nibbles as in IQ4_NL, whose table it shares.

use super::iq4_nl::LEVELS;
use super::q4_0::unpack_nibbles;
use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Iq4Xs;

impl Format for Iq4Xs {
    const DTYPE: DType = DType::IQ4XS;
    const KIND: Kind = Kind::S8;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = false;
    const FIELDS: &'static [Field] =
        &[Field::new(2, Unit::Half), Field::new(2, Unit::Byte), Field::new(4, Unit::Byte), Field::new(128, Unit::Word)];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let low = block[4 + sub / 2] >> (4 * (sub % 2)) & 15;
        let high = block[2 + sub / 4] >> (2 * (sub % 4)) & 3;
        let scale = f32::from(low | high << 4) - 32.0;
        let mut out = Sub::uniform(half_at(block, 0) * scale, 0.0);
        unpack_nibbles(&block[8 + 16 * sub..][..16], &mut out.q);
        out.q = out.q.map(|q| LEVELS[q as usize]);
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Iq4Xs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{bytes8, halves8, offset_regs, signed_to_f32};
        use super::iq4_nl::levels;
        use std::arch::x86_64::*;
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let shift = |v: __m128i, by: usize| _mm_srl_epi16(v, _mm_cvtsi32_si128(by as i32));
            let low = shift(bytes8(block.add(32), sub / 2), 4 * (sub % 2));
            let high = shift(bytes8(block.add(16), sub / 4), 2 * (sub % 4));
            let low = _mm_and_si128(low, _mm_set1_epi8(15));
            let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
            let six = _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
            let scale = _mm256_mul_ps(halves8(block), signed_to_f32(six));
            offset_regs(levels(block.add(64 + 128 * sub)), scale, 0)
        }
    }
}
