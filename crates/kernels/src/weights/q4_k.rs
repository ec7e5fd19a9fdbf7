//! Q4_K: 256 values a block in runs of 32, `d * s * q - dmin * m` with 6-bit `s` and `m`.
//!
//! `f16 d`, `f16 dmin`, 12 bytes of packed scales (see `scales`), 128 bytes of nibbles: each 32 bytes hold
//! one run of 32 in their low nibbles and the next in their high ones.

use super::{DType, Field, Format, Kind, SUB, Sub, Unit, scales};

pub(crate) struct Q4K;

impl Format for Q4K {
    const DTYPE: DType = DType::Q4K;
    const KIND: Kind = Kind::U4;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = true;
    const FIELDS: &'static [Field] = &[
        Field::new(2, Unit::Half),
        Field::new(2, Unit::Half),
        Field::new(12, Unit::Byte),
        Field::new(128, Unit::Word),
    ];

    fn unpack(block: &[u8], sub: usize) -> Sub {
        let mut out = scales::run(block, sub);
        let nibbles = &block[scales::HEAD + sub / 2 * 32..][..SUB];
        out.q = std::array::from_fn(|i| (nibbles[i] >> (4 * (sub % 2)) & 15) as i8);
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q4K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, sub: usize) -> super::avx2::Regs {
        use super::avx2::{bits, words8};
        use std::arch::x86_64::*;
        // SAFETY: the offsets are eight times those of the file's block, and `sub < 8`.
        unsafe {
            let nibbles = block.add(128 + sub / 2 * 256);
            let mut w = [_mm256_setzero_si256(); 8];
            for (g, w) in w.iter_mut().enumerate() {
                *w = bits(words8(nibbles, g), 4 * (sub % 2), 15);
            }
            scales::avx2::run8(block, sub, w)
        }
    }
}
