//! Q6_K: 256 values a block in runs of 16, `d * s * (q - 32)` with signed 8-bit `s`.
//!
//! 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 scales, `f16 d`. Each half of 128 values takes
//! 64 bytes of nibbles and 32 of pairs; of its four runs of 32 the first two are the low nibbles of the
//! first and second 32 bytes, the last two their high nibbles, and the pairs are taken from bit 0 upwards.

use super::{DType, Field, Format, Kind, SUB, Sub, Unit, half_at};

pub(crate) struct Q6K;

impl Format for Q6K {
    const DTYPE: DType = DType::Q6K;
    const KIND: Kind = Kind::U6;
    const HALVES: bool = true;
    const OFFSET: i8 = 32;
    const MIN: bool = false;
    const FIELDS: &'static [Field] = &[
        Field::new(128, Unit::Word),
        Field::new(64, Unit::Word),
        Field::new(16, Unit::Byte),
        Field::new(2, Unit::Half),
    ];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let (half, run) = (sub / 4, sub % 4);
        let nibbles = &block[64 * half + 32 * (run % 2)..][..SUB];
        let pairs = &block[128 + 32 * half..][..SUB];
        let d = half_at(block, 208);
        let scale = |i: usize| d * f32::from(block[192 + 2 * sub + i] as i8);
        let nibble = |i: usize| nibbles[i] >> (4 * (run / 2)) & 15;
        Sub {
            q: std::array::from_fn(|i| (nibble(i) | (pairs[i] >> (2 * run) & 3) << 4) as i8),
            scale: [scale(0), scale(1)],
            min: [0.0; 2],
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q6K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{Regs, bits, bytes8, halves8, signed_to_f32, words8};
        use std::arch::x86_64::*;
        let (half, run) = (sub / 4, sub % 4);
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let nibbles = block.add(512 * half + 256 * (run % 2));
            let pairs = block.add(1024 + 256 * half);
            let mut w = [_mm256_setzero_si256(); 8];
            for (g, w) in w.iter_mut().enumerate() {
                let pair = _mm256_slli_epi16::<4>(bits(words8(pairs, g), 2 * run, 3));
                *w = _mm256_or_si256(bits(words8(nibbles, g), 4 * (run / 2), 15), pair);
            }
            let d = halves8(block.add(1664));
            let scales = block.add(1536);
            let scale = |i: usize| _mm256_mul_ps(d, signed_to_f32(bytes8(scales, 2 * sub + i)));
            let scale = [scale(0), scale(1)];
            let offset = _mm256_set1_ps(-f32::from(Self::OFFSET));
            let min = [_mm256_mul_ps(scale[0], offset), _mm256_mul_ps(scale[1], offset)];
            Regs { w, scale, min }
        }
    }
}
