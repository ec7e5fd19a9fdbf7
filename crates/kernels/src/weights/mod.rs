//! Weight formats, one a file: how a block lies on disk, what its integers mean, how they get into registers.
//!
//! Every quantised format here is, for each run of 16 or 32 neighbours in a row,
//! `value = scale * (q - OFFSET) + min` with small integers `q`; they differ only in how `q`, `scale` and
//! `min` are packed. So each format gives one scalar function ([`Format::unpack`]) and one AVX2 function
//! (`Avx2Format::load`), and everything else (dequantising, products, tests) is written once over those.
//!
//! Layouts are those of the GGUF specification and are checked against the `gguf` Python package in
//! `tests/golden.rs`. Integers are little-endian.

use crate::DType;
use crate::KernelError;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
mod float;
mod iq4_nl;
mod iq4_xs;
pub(crate) mod panel;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod quantize;
mod scales;

pub(crate) use float::{bf16_to_f32, f16_to_f32};
pub use float::{quantize_bf16, quantize_f16};
pub(crate) use iq4_nl::Iq4Nl;
pub(crate) use iq4_xs::Iq4Xs;
pub(crate) use q2_k::Q2K;
pub(crate) use q3_k::Q3K;
pub(crate) use q4_0::Q4_0;
pub(crate) use q4_1::Q4_1;
pub(crate) use q4_k::Q4K;
pub(crate) use q5_0::Q5_0;
pub(crate) use q5_1::Q5_1;
pub(crate) use q5_k::Q5K;
pub(crate) use q6_k::Q6K;
pub(crate) use q8_0::Q8_0;
pub use quantize::{check, convert, quantize};

/// Values in a run that shares its scale with at most one other: what [`Format::unpack`] yields at once.
pub(crate) const SUB: usize = 32;

/// Bytes of the largest block (Q6_K).
pub(crate) const MAX_BLOCK: usize = 210;

/// How large the integers of a format are, which decides how many products fit an `i16` sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 0..=15: eight groups of two products, 8 * 2 * 15 * 127 = 30480, fit.
    U4,
    /// 0..=31: four groups fit.
    U5,
    /// 0..=63: two groups fit.
    U6,
    /// -128..=127: one group fits, by moving the sign over to the activation.
    S8,
}

/// 32 values of a row: `value[i] = scale[i / 16] * (q[i] - OFFSET) + min[i / 16]`.
pub(crate) struct Sub {
    pub(crate) q: [i8; SUB],
    pub(crate) scale: [f32; 2],
    pub(crate) min: [f32; 2],
}

impl Sub {
    /// A run with one scale and no minimum, to be filled.
    fn uniform(scale: f32, min: f32) -> Sub {
        Sub { q: [0; SUB], scale: [scale; 2], min: [min; 2] }
    }
}

/// A field of a block: `len` bytes made of units that must stay together when rows are interleaved.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) len: usize,
    pub(crate) unit: Unit,
}

/// What of a field stays together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Single bytes (packed scales).
    Byte,
    /// Two bytes (f16 scales).
    Half,
    /// Four bytes: a 32-bit lane then holds four neighbours of one row.
    Word,
    /// Four bytes of single bits, bit `4 g + b` moved to bit `g` of byte `b`, under the value it completes.
    Bits,
}

impl Field {
    pub(crate) const fn new(len: usize, unit: Unit) -> Field {
        Field { len, unit }
    }
}

/// One quantised format.
pub(crate) trait Format {
    /// Which one, and so its block's sizes.
    const DTYPE: DType;
    /// Range of `q`.
    const KIND: Kind;
    /// True if the two halves of 32 values have scales of their own.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const HALVES: bool;
    /// What `q` means zero.
    const OFFSET: i8;
    /// Whether the format has minimums of its own.
    const MIN: bool;
    /// The block's fields in file order.
    const FIELDS: &'static [Field];

    /// Values `32 * sub ..` of the block.
    fn unpack(block: &[u8], sub: usize) -> Sub;
}

/// Runs `$body` with `$F` naming the [`Format`] of a quantised `$dtype`; `$float` for the plain floats.
macro_rules! with_format {
    ($dtype:expr, $F:ident => $body:expr, float => $float:expr) => {{
        use $crate::DType;
        use $crate::weights as w;
        macro_rules! arm {
            ($T:ty) => {{
                type $F = $T;
                $body
            }};
        }
        match $dtype {
            DType::F32 | DType::F16 | DType::BF16 => $float,
            DType::Q4_0 => arm!(w::Q4_0),
            DType::Q4_1 => arm!(w::Q4_1),
            DType::Q5_0 => arm!(w::Q5_0),
            DType::Q5_1 => arm!(w::Q5_1),
            DType::Q8_0 => arm!(w::Q8_0),
            DType::Q2K => arm!(w::Q2K),
            DType::Q3K => arm!(w::Q3K),
            DType::Q4K => arm!(w::Q4K),
            DType::Q5K => arm!(w::Q5K),
            DType::Q6K => arm!(w::Q6K),
            DType::IQ4NL => arm!(w::Iq4Nl),
            DType::IQ4XS => arm!(w::Iq4Xs),
        }
    }};
}
pub(crate) use with_format;

/// Dequantises `out.len()` values stored as `dtype` in `bytes` (the file's own layout).
///
/// # Errors
/// `out` is no whole number of blocks, or `bytes` has another length than these blocks take.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let cols = out.len();
    let Some(expected) = dtype.row_bytes(cols) else {
        return Err(KernelError::Columns { dtype, block: dtype.block_len(), cols });
    };
    if bytes.len() != expected {
        return Err(KernelError::Length { what: "the data to dequantise", unit: "bytes", expected, got: bytes.len() });
    }
    with_format!(dtype, F => dequantize_blocks::<F>(bytes, out), float => float::widen(dtype, bytes, out));
    Ok(())
}

fn dequantize_blocks<F: Format>(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(F::DTYPE.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(F::DTYPE.block_len())) {
        dequantize_block::<F>(block, out);
    }
}

/// One block to values, in the order of operations that ggml documents, so that results agree to the bit.
pub(crate) fn dequantize_block<F: Format>(block: &[u8], out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(SUB).enumerate() {
        let sub = F::unpack(block, index);
        for (i, (out, &q)) in out.iter_mut().zip(&sub.q).enumerate() {
            let value = sub.scale[i / 16] * f32::from(i16::from(q) - i16::from(F::OFFSET));
            *out = if F::MIN { value + sub.min[i / 16] } else { value };
        }
    }
}

/// The f16 at byte `at` of a block.
pub(crate) fn half_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32([block[at], block[at + 1]])
}
