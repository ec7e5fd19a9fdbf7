//! F32, F16 and BF16: plain floats, widened exactly.

use crate::DType;
use half::{bf16, f16};

/// An IEEE half, little-endian, to f32 (exact).
#[inline]
pub(crate) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// A bfloat16, little-endian, to f32 (exact): the upper half of the same number.
#[inline]
pub(crate) fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Widens a row of plain floats; lengths were checked by the caller.
pub(super) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    let (halves, _) = bytes.as_chunks::<2>();
    match dtype {
        DType::F16 => out.iter_mut().zip(halves).for_each(|(out, &b)| *out = f16_to_f32(b)),
        DType::BF16 => out.iter_mut().zip(halves).for_each(|(out, &b)| *out = bf16_to_f32(b)),
        _ => out.iter_mut().zip(words).for_each(|(out, &b)| *out = f32::from_le_bytes(b)),
    }
}

/// The values that a plain float format rounds to finite numbers.
pub(super) fn range(dtype: DType) -> (f32, f32) {
    // the last value below the tie that goes to infinity
    let most = match dtype {
        DType::F16 => f32::from_bits(65520f32.to_bits() - 1),
        DType::BF16 => f32::from_bits(0x7f7f_7fff),
        _ => f32::MAX,
    };
    (-most, most)
}

/// Rounds finite values to a plain float format; lengths were checked by the caller. What lies beyond the format's
/// range is held at its end.
pub(super) fn narrow(dtype: DType, values: &[f32], out: &mut [u8]) {
    let within = |v: f32, most: f32| v.clamp(-most, most);
    match dtype {
        DType::F16 => {
            for (out, &v) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *out = f16::from_f32(within(v, f16::MAX.to_f32())).to_le_bytes();
            }
        }
        DType::BF16 => {
            for (out, &v) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *out = bf16::from_f32(within(v, bf16::MAX.to_f32())).to_le_bytes();
            }
        }
        _ => out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_le_bytes()),
    }
}

/// Rounds values to F16 in the file's layout (to nearest, ties to even).
pub fn quantize_f16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
}

/// Rounds values to BF16 in the file's layout (to nearest, ties to even).
pub fn quantize_bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
}
