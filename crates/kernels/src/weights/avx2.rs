//! What the AVX2 side of every format shares: the registers a format fills, and the small loads it fills
//! them with.
//!
//! A panel block holds one block of eight rows, interleaved (see `panel`): 32-bit lane `r` of each vector
//! belongs to row `r`, and its four bytes are four neighbours along the row. One broadcast of four
//! activations then meets eight rows at once, and no sum ever crosses lanes.

use super::Format;
use std::arch::x86_64::*;

/// 32 values of eight rows: byte `4 r + b` of `w[g]` is `q[4 g + b]` of row `r`.
///
/// `value = scale[h] * q + min[h]`, `h` being the half; unlike in [`super::Sub`] the format's offset has
/// already been folded into `min`, because a product of unsigned integers is the cheap one.
pub(crate) struct Regs {
    pub(crate) w: [__m256i; 8],
    pub(crate) scale: [__m256; 2],
    pub(crate) min: [__m256; 2],
}

/// A format's way from a panel block into registers.
pub(crate) trait Avx2Format: Format {
    /// Values `32 * sub ..` of eight rows.
    ///
    /// # Safety
    /// AVX2, FMA and F16C are there; `block` points to `8 * block_bytes` readable bytes; `sub` lies inside.
    unsafe fn load(block: *const u8, sub: usize) -> Regs;
}

/// Eight f16 at `at`, widened.
///
/// # Safety
/// AVX2 and F16C are there; 16 bytes are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn halves8(at: *const u8) -> __m256 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Byte row `row` of an interleaved field of single bytes: one byte of each of eight rows.
///
/// # Safety
/// `8 * row + 8` bytes are readable at `field`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bytes8(field: *const u8, row: usize) -> __m128i {
    // SAFETY: the caller vouches for the eight bytes.
    unsafe { _mm_loadl_epi64(field.add(8 * row).cast()) }
}

/// Vector `index` of a field of words.
///
/// # Safety
/// `32 * index + 32` bytes are readable at `field`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn words8(field: *const u8, index: usize) -> __m256i {
    // SAFETY: the caller vouches for the 32 bytes.
    unsafe { _mm256_loadu_si256(field.add(32 * index).cast()) }
}

/// Eight unsigned bytes to floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn to_f32(bytes: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
}

/// Eight signed bytes to floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn signed_to_f32(bytes: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// `v >> shift` byte by byte, keeping the bits of `mask`. The shift itself is on 16 bits, so `mask` must
/// not reach above the `8 - shift` bits that a byte has left.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    let count = _mm_cvtsi32_si128(shift as i32);
    _mm256_and_si256(_mm256_srl_epi16(v, count), _mm256_set1_epi8(mask))
}

/// Sixteen bytes of nibbles a row: low nibbles are the first 16 values, high nibbles the last.
///
/// # Safety
/// 128 bytes are readable at `field`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn nibbles(field: *const u8) -> [__m256i; 8] {
    let low = _mm256_set1_epi8(15);
    let mut w = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        // SAFETY: four vectors of 32 bytes.
        let v = unsafe { words8(field, j) };
        w[j] = _mm256_and_si256(v, low);
        w[j + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
    }
    w
}

/// One scale for all 32 values, and the minimum that stands for an offset: `scale * (q - offset)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn offset_regs(w: [__m256i; 8], scale: __m256, offset: i8) -> Regs {
    let min = _mm256_mul_ps(scale, _mm256_set1_ps(-f32::from(offset)));
    Regs { w, scale: [scale; 2], min: [min; 2] }
}
