//! Q4_0: 32 values a block, `d * (q - 8)`.
//!
//! `f16 d`, then 16 bytes whose low nibbles are values 0..16 and high nibbles values 16..32.

use super::{DType, Field, Format, Kind, Sub, Unit, half_at};

pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const KIND: Kind = Kind::U4;
    const HALVES: bool = false;
    const OFFSET: i8 = 8;
    const MIN: bool = false;
    const FIELDS: &'static [Field] = &[Field::new(2, Unit::Half), Field::new(16, Unit::Word)];

    fn unpack(block: &[u8], _sub: usize) -> Sub {
        let mut sub = Sub::uniform(half_at(block, 0), 0.0);
        unpack_nibbles(&block[2..18], &mut sub.q);
        sub
    }
}

/// Sixteen bytes to 32 integers: all low nibbles, then all high ones.
pub(super) fn unpack_nibbles(bytes: &[u8], q: &mut [i8; 32]) {
    for (j, &byte) in bytes.iter().enumerate() {
        q[j] = (byte & 15) as i8;
        q[j + 16] = (byte >> 4) as i8;
    }
}

/// The reverse of [`unpack_nibbles`].
pub(super) fn pack_nibbles(q: [u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| q[j] | q[j + 16] << 4)
}

#[cfg(target_arch = "x86_64")]
impl super::avx2::Avx2Format for Q4_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(block: *const u8, _sub: usize) -> super::avx2::Regs {
        use super::avx2::{halves8, nibbles, offset_regs};
        // SAFETY: 16 bytes of scales and 128 of nibbles make the panel block.
        unsafe { offset_regs(nibbles(block.add(16)), halves8(block), Self::OFFSET) }
    }
}
