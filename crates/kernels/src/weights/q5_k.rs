//! Q5_K: 256 values a block in runs of 32, `d * s * q - dmin * m` with 6-bit `s` and `m`.
//!
//! As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `n` of byte `l` belongs to value `32 n + l`.

use super::{DType, Field, Format, Kind, SUB, Sub, Unit, scales};

pub(crate) struct Q5K;

impl Format for Q5K {
    const DTYPE: DType = DType::Q5K;
    const KIND: Kind = Kind::U5;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = true;
    const FIELDS: &'static [Field] = &[
        Field::new(2, Unit::Half),
        Field::new(2, Unit::Half),
        Field::new(12, Unit::Byte),
        Field::new(32, Unit::Word),
        Field::new(128, Unit::Word),
    ];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let mut out = scales::run(block, sub);
        let fifths = &block[16..48];
        let nibbles = &block[48 + sub / 2 * 32..][..SUB];
        let nibble = |i: usize| nibbles[i] >> (4 * (sub % 2)) & 15;
        out.q = std::array::from_fn(|i| (nibble(i) | (fifths[i] >> sub & 1) << 4) as i8);
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q5K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{bits, words8};
        use std::arch::x86_64::*;
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let fifths = block.add(128);
            let nibbles = block.add(384 + sub / 2 * 256);
            let mut w = [_mm256_setzero_si256(); 8];
            for (g, w) in w.iter_mut().enumerate() {
                let fifth = _mm256_slli_epi16::<4>(bits(words8(fifths, g), sub, 1));
                *w = _mm256_or_si256(bits(words8(nibbles, g), 4 * (sub % 2), 15), fifth);
            }
            scales::avx2::run8(block, sub, w)
        }
    }
}
