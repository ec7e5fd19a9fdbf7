//! Q4_1: 32 values a block, `d * q + m`.
//!
//! `f16 d`, `f16 m`, then nibbles as in Q4_0.

use super::q4_0::unpack_nibbles;
use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Q4_1;

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const KIND: Kind = Kind::U4;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = true;
    const FIELDS: &'static [Field] =
        &[Field::new(2, Unit::Half), Field::new(2, Unit::Half), Field::new(16, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), half_at(block, 2));
        unpack_nibbles(&block[4..20], &mut sub.q);
        sub
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q4_1 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{Regs, halves8, nibbles};
        // SAFETY: twice 16 bytes of scales and 128 of nibbles make the panel block.
        unsafe {
            let (scale, min) = (halves8(block), halves8(block.add(16)));
            Regs { w: nibbles(block.add(32)), scale: [scale; 2], min: [min; 2] }
        }
    }
}
