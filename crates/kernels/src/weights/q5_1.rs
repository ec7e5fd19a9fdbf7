//! Q5_1: 32 values a block, `d * q + m`.
//!
//! `f16 d`, `f16 m`, then fifth bits and nibbles as in Q5_0.

use super::q5_0::unpack_fives;
use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Q5_1;

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const KIND: Kind = Kind::U5;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = true;
    const FIELDS: &'static [Field] =
        &[Field::new(2, Unit::Half), Field::new(2, Unit::Half), Field::new(4, Unit::Bits), Field::new(16, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), half_at(block, 2));
        unpack_fives(&block[4..24], &mut sub.q);
        sub
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q5_1 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{Regs, halves8};
        use super::q5_0::fives;
        // SAFETY: twice 16 bytes of scales, 32 of bits and 128 of nibbles make the panel block.
        unsafe {
            let (scale, min) = (halves8(block), halves8(block.add(16)));
            Regs { w: fives(block.add(32)), scale: [scale; 2], min: [min; 2] }
        }
    }
}
