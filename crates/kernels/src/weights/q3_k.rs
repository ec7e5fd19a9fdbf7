//! Q3_K: 256 values a block in runs of 16, `d * (s - 32) * (q - 4)` with 6-bit `s`.
//!
//! 32 bytes of third bits (bit `n` of byte `l` belongs to value `32 n + l`), 64 bytes of 2-bit values as in
//! Q2_K, 12 bytes of scales, `f16 d`. Scale `i` has its low four bits in a nibble of bytes 0..8 (low
//! nibbles first) and its high two bits in byte `8 + i % 4`, at bit `2 (i / 4)`.

use super::{DType, Field, Format, Kind, SUB, Sub, Unit, half_at};

pub(crate) struct Q3K;

impl Format for Q3K {
    const DTYPE: DType = DType::Q3K;
    const KIND: Kind = Kind::U4;
    const HALVES: bool = true;
    const OFFSET: i8 = 4;
    const MIN: bool = false;
    const FIELDS: &'static [Field] = &[
        Field::new(32, Unit::Word),
        Field::new(64, Unit::Word),
        Field::new(12, Unit::Byte),
        Field::new(2, Unit::Half),
    ];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let (thirds, twos) = (&block[..SUB], &block[32 + sub / 4 * 32..][..SUB]);
        let packed = &block[96..108];
        let d = half_at(block, 108);
        let shift = 2 * (sub % 4);
        let scale = |half: usize| {
            let i = 2 * sub + half;
            let low = packed[i % 8] >> (4 * (i / 8)) & 15;
            let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
            d * (f32::from(low | high << 4) - 32.0)
        };
        Sub {
            q: std::array::from_fn(|i| (twos[i] >> shift & 3 | (thirds[i] >> sub & 1) << 2) as i8),
            scale: [scale(0), scale(1)],
            min: [0.0; 2],
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q3K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{Regs, bits, bytes8, halves8, signed_to_f32, words8};
        use std::arch::x86_64::*;
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let twos = block.add(256 + sub / 4 * 256);
            let mut w = [_mm256_setzero_si256(); 8];
            for (g, w) in w.iter_mut().enumerate() {
                let third = _mm256_slli_epi16::<2>(bits(words8(block, g), sub, 1));
                *w = _mm256_or_si256(bits(words8(twos, g), 2 * (sub % 4), 3), third);
            }
            let packed = block.add(768);
            let d = halves8(block.add(864));
            let scale = |half: usize| {
                let i = 2 * sub + half;
                let shift = |row: usize, by: usize| _mm_srl_epi16(bytes8(packed, row), _mm_cvtsi32_si128(by as i32));
                let low = _mm_and_si128(shift(i % 8, 4 * (i / 8)), _mm_set1_epi8(15));
                let high = _mm_and_si128(shift(8 + i % 4, 2 * (i / 4)), _mm_set1_epi8(3));
                let six = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
                _mm256_mul_ps(d, signed_to_f32(_mm_sub_epi8(six, _mm_set1_epi8(32))))
            };
            let scale = [scale(0), scale(1)];
            let offset = _mm256_set1_ps(-f32::from(Self::OFFSET));
            let min = [_mm256_mul_ps(scale[0], offset), _mm256_mul_ps(scale[1], offset)];
            Regs { w, scale, min }
        }
    }
}
