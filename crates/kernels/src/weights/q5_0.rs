//! Q5_0: 32 values a block, `d * (q - 16)`.
//!
//! `f16 d`, `u32` whose bit `i` is the fifth bit of value `i`, then nibbles as in Q4_0.

use super::q4_0::unpack_nibbles;
use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Q5_0;

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const KIND: Kind = Kind::U5;
    const HALVES: bool = false;
    const OFFSET: i8 = 16;
    const MIN: bool = false;
    const FIELDS: &'static [Field] =
        &[Field::new(2, Unit::Half), Field::new(4, Unit::Bits), Field::new(16, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), 0.0);
        unpack_fives(&block[2..22], &mut sub.q);
        sub
    }
}

/// Four bytes of fifth bits and sixteen of nibbles to 32 integers.
pub(super) fn unpack_fives(bytes: &[u8], q: &mut [i8; 32]) {
    unpack_nibbles(&bytes[4..], q);
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((high >> i & 1) << 4) as i8;
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q5_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{halves8, offset_regs};
        // SAFETY: 16 bytes of scales, 32 of bits and 128 of nibbles make the panel block.
        unsafe { offset_regs(fives(block.add(16)), halves8(block), Self::OFFSET) }
    }
}

/// A field of bits and one of nibbles, side by side, of eight rows.
///
/// # Safety
/// AVX2 is there; 160 bytes are readable at `field`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fives(field: *const u8) -> [std::arch::x86_64::__m256i; 8] {
    use super::avx2::{nibbles, words8};
    use std::arch::x86_64::*;
    // SAFETY: 32 bytes of bits, then 128 of nibbles.
    let (high, mut w) = unsafe { (words8(field, 0), nibbles(field.add(32))) };
    let fifth = _mm256_set1_epi8(16);
    // `Unit::Bits` put the bit of group g at bit g of its byte; here it moves to bit 4. What a 16-bit shift
    // drags in from the neighbour byte is masked.
    let shifted = [
        _mm256_slli_epi16::<4>(high),
        _mm256_slli_epi16::<3>(high),
        _mm256_slli_epi16::<2>(high),
        _mm256_slli_epi16::<1>(high),
        high,
        _mm256_srli_epi16::<1>(high),
        _mm256_srli_epi16::<2>(high),
        _mm256_srli_epi16::<3>(high),
    ];
    for (w, shifted) in w.iter_mut().zip(shifted) {
        *w = _mm256_or_si256(*w, _mm256_and_si256(shifted, fifth));
    }
    w
}
