//! Q2_K: 256 values a block in runs of 16, `d * s * q - dmin * m` with 4-bit `s` and `m`.
//!
//! 16 bytes (scale in the low nibble, minimum in the high one), 64 bytes of 2-bit values, `f16 d`,
//! `f16 dmin`. Each half of 128 values takes 32 bytes: bits 0-1 of all of them are its first 32 values,
//! bits 2-3 the next 32, and so on.

use super::{DType, Field, Format, Kind, SUB, Sub, Unit, half_at};

pub(crate) struct Q2K;

impl Format for Q2K {
    const DTYPE: DType = DType::Q2K;
    const KIND: Kind = Kind::U4;
    const HALVES: bool = true;
    const OFFSET: i8 = 0;
    const MIN: bool = true;
    const FIELDS: &'static [Field] =
        &[Field::new(16, Unit::Byte), Field::new(64, Unit::Word), Field::new(2, Unit::Half), Field::new(2, Unit::Half)];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let (d, dmin) = (half_at(block, 80), half_at(block, 82));
        let packed = [block[2 * sub], block[2 * sub + 1]];
        let twos = &block[16 + sub / 4 * 32..][..SUB];
        let shift = 2 * (sub % 4);
        Sub {
            q: std::array::from_fn(|i| (twos[i] >> shift & 3) as i8),
            scale: packed.map(|p| d * f32::from(p & 15)),
            min: packed.map(|p| -(dmin * f32::from(p >> 4))),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q2K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{Regs, bits, bytes8, halves8, to_f32, words8};
        use std::arch::x86_64::*;
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let twos = block.add(128 + sub / 4 * 256);
            let mut w = [_mm256_setzero_si256(); 8];
            for (g, w) in w.iter_mut().enumerate() {
                *w = bits(words8(twos, g), 2 * (sub % 4), 3);
            }
            let d = halves8(block.add(640));
            let dmin = _mm256_sub_ps(_mm256_setzero_ps(), halves8(block.add(656)));
            let packed = [bytes8(block, 2 * sub), bytes8(block, 2 * sub + 1)];
            let low = _mm_set1_epi8(15);
            let scale = |p| _mm256_mul_ps(d, to_f32(_mm_and_si128(p, low)));
            let min = |p| _mm256_mul_ps(dmin, to_f32(_mm_and_si128(_mm_srli_epi16::<4>(p), low)));
            Regs { w, scale: [scale(packed[0]), scale(packed[1])], min: [min(packed[0]), min(packed[1])] }
        }
    }
}
