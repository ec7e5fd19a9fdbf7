//! Q8_0: 32 values a block, `d * q`.
//!
//! `f16 d`, then 32 signed bytes.

use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const KIND: Kind = Kind::S8;
    const HALVES: bool = false;
    const OFFSET: i8 = 0;
    const MIN: bool = false;
    const FIELDS: &'static [Field] = &[Field::new(2, Unit::Half), Field::new(32, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), 0.0);
        for (q, &byte) in sub.q.iter_mut().zip(&block[2..34]) {
            *q = byte as i8;
        }
        sub
    }
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{halves8, offset_regs, words8};
        // SAFETY: 16 bytes of scales and 256 of integers make the panel block.
        unsafe {
            let q = block.add(16);
            let w = [
                words8(q, 0),
                words8(q, 1),
                words8(q, 2),
                words8(q, 3),
                words8(q, 4),
                words8(q, 5),
                words8(q, 6),
                words8(q, 7),
            ];
            offset_regs(w, halves8(block), 0)
        }
    }
}
