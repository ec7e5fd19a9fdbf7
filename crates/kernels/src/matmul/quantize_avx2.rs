//! 32 floats to int8 with AVX2: the same bits as the scalar twin.

use super::activations::{BlockSums, TINY};
use crate::weights::SUB;
use std::arch::x86_64::*;

/// See [`super::scalar::quantize_block`].
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn quantize_block(values: &[f32; SUB], q: &mut [i8; SUB]) -> BlockSums {
    // SAFETY: four vectors of eight values make the 32.
    let v: [__m256; 4] = std::array::from_fn(|j| unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * j)) });
    let largest = largest_magnitude(v);
    if !(TINY..f32::INFINITY).contains(&largest) {
        *q = [0; SUB];
        let scale = if largest < TINY { 0.0 } else { f32::NAN };
        return BlockSums { scale, halves: [0; 2] };
    }
    let inverse = _mm256_set1_ps(127.0 / largest);
    let rounded = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    let first = sum(_mm256_add_epi32(rounded[0], rounded[1]));
    let last = sum(_mm256_add_epi32(rounded[2], rounded[3]));
    // Packing works within 128-bit lanes, so groups of four come out as 0 2 4 6 1 3 5 7.
    let low = _mm256_packs_epi32(rounded[0], rounded[1]);
    let high = _mm256_packs_epi32(rounded[2], rounded[3]);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    // SAFETY: `q` has 32 bytes.
    unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes) };
    BlockSums { scale: largest / 127.0, halves: [first, last] }
}

/// Magnitudes compared as integers, so that NaN comes out on top instead of vanishing.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn largest_magnitude(v: [__m256; 4]) -> f32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let bits = v.map(|v| _mm256_and_si256(_mm256_castps_si256(v), magnitude));
    let m = _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
    let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b00_00_11_10>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b00_00_00_01>(m));
    f32::from_bits(_mm_cvtsi128_si32(m) as u32)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_00_01>(v));
    _mm_cvtsi128_si32(v)
}
