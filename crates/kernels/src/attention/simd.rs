//! The vector vocabulary of the attention kernels: loads that convert, exponentials, sums across vectors.
//!
//! Everything is generic over `B`, the stored bytes of EIGHT values, which names the element type: 32 is f32, 16 is
//! f16, 8 is q8, 4 is q4. Loads take arrays of that size, so their bounds are known to the compiler and the kernels above stay
//! safe code; only loads and stores themselves need `unsafe`.

use std::arch::x86_64::*;

/// Stored bytes of eight f32.
pub(super) const F32: usize = 32;
/// Stored bytes of eight f16.
pub(super) const F16: usize = 16;
/// Stored bytes of eight q8.
pub(super) const Q8: usize = 8;
/// Stored bytes of eight q4.
pub(super) const Q4: usize = 4;

/// Whether values of a type come in groups with scales.
pub(super) const fn grouped(bytes: usize) -> bool {
    bytes == Q8 || bytes == Q4
}

/// What turns stored numbers into values: `factor * stored + least`, with `least` for q4 only and nothing for floats.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    factor: __m256,
    least: __m256,
}

/// log2 e: logits are kept in units of log 2, so that the softmax needs 2^x only.
pub(super) const LOG2E: f32 = std::f32::consts::LOG2_E;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array has the 32 bytes that are read; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn store(x: &mut [f32; 8], v: __m256) {
    // SAFETY: the array has the 32 bytes that are written; the store needs no alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

/// Eight stored numbers as f32, before their scale.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load_raw<const B: usize>(x: &[u8; B]) -> __m256 {
    // SAFETY: each arm reads the B bytes that the array has, and no load needs alignment.
    unsafe {
        match B {
            F32 => _mm256_loadu_ps(x.as_ptr().cast()),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            Q8 => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))),
            _ => {
                const { assert!(B == F32 || B == F16 || B == Q8 || B == Q4) };
                // All eight halves of bytes in every lane, each lane's own moved to the bottom.
                let all = _mm256_set1_epi32(x.as_ptr().cast::<i32>().read_unaligned());
                let own = _mm256_srlv_epi32(all, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
                _mm256_cvtepi32_ps(_mm256_and_si256(own, _mm256_set1_epi32(15)))
            }
        }
    }
}

/// Eight stored values as f32, by their scale if they have one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load_scaled<const B: usize>(x: &[u8; B], scale: Scale) -> __m256 {
    let v = load_raw(x);
    match B {
        Q8 => _mm256_mul_ps(v, scale.factor),
        Q4 => _mm256_fmadd_ps(v, scale.factor, scale.least),
        _ => v,
    }
}

/// The last `x.len() / (B / 8)` values of a row (fewer than eight), zeros behind them. Rows of q4 have no such rest.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load_tail<const B: usize>(x: &[u8], scale: Scale) -> __m256 {
    let mut whole = [0u8; B];
    whole[..x.len()].copy_from_slice(x);
    load_scaled(&whole, scale)
}

/// The scale of group `group` of a row, in every lane; nothing is read for types without.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn scale_of<const B: usize>(scales: &[u8], group: usize) -> Scale {
    let zero = _mm256_setzero_ps();
    match B {
        Q8 => {
            let bits = u16::from_le_bytes(scales.as_chunks::<2>().0[group]);
            let factor = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
            Scale { factor, least: zero }
        }
        Q4 => {
            let bits = i32::from_le_bytes(scales.as_chunks::<4>().0[group]);
            let both = _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
            Scale { factor: _mm256_broadcastss_ps(both), least: _mm256_broadcastss_ps(_mm_movehdup_ps(both)) }
        }
        _ => Scale { factor: zero, least: zero },
    }
}

/// 2^x for x <= 0 (a logit minus the largest), relative error 1e-7; exactly 1 at 0 and exactly 0 below -127, so that
/// a masked logit, minus infinity, weighs nothing at all. NaN stays NaN.
///
/// x = n + f with |f| <= 1/2; 2^f is the minimax polynomial of degree 6 with constant term 1, 2^n a shifted exponent.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn exp2(x: __m256) -> __m256 {
    // 1.5 * 2^23 + 127: adding it rounds to an integer and leaves n + 127 in the low bits.
    let round = _mm256_set1_ps(12_583_039.0);
    let x = _mm256_max_ps(_mm256_set1_ps(-127.0), x);
    let shifted = _mm256_add_ps(x, round);
    let f = _mm256_sub_ps(x, _mm256_sub_ps(shifted, round));
    let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(shifted)));
    let mut y = _mm256_set1_ps(1.559_468e-4);
    for c in [1.340_664_4e-3, 9.617_693e-3, 5.550_310_6e-2, 2.402_265_2e-1, 6.931_472e-1, 1.0] {
        y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(c));
    }
    _mm256_mul_ps(y, power)
}

/// tanh x, as in `ops::exp`: the polynomial near zero, `1 - 2 / (e^2|x| + 1)` with the sign of x elsewhere.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn tanh(x: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let sign = _mm256_set1_ps(-0.0);
    let size = _mm256_andnot_ps(sign, x);
    // e^-2|x| is in reach of `exp2`: tanh |x| = (1 - e^-2|x|) / (1 + e^-2|x|).
    let e = exp2(_mm256_mul_ps(size, _mm256_set1_ps(-2.0 * LOG2E)));
    let far = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    let far = _mm256_or_ps(far, _mm256_and_ps(sign, x));
    let z = _mm256_mul_ps(x, x);
    let mut y = _mm256_set1_ps(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        y = _mm256_fmadd_ps(y, z, _mm256_set1_ps(c));
    }
    let near = _mm256_fmadd_ps(_mm256_mul_ps(z, y), x, x);
    _mm256_blendv_ps(far, near, _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(0.625)))
}

/// Lanes of two vectors interleaved and half summed, the first step of [`sums_of_pairs`]. (Two unpacks and an addition
/// do in one cycle what `hadd` needs two for.)
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn pair(a: __m256, b: __m256) -> __m256 {
    _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
}

/// Lane `i` of the result is the sum of the lanes of `v[i]`, where `pairs[i]` is `pair(v[2 i], v[2 i + 1])`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums_of_pairs(pairs: &[__m256; 4]) -> __m256 {
    let four = |a, b| {
        let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
    };
    let (low, high) = (four(pairs[0], pairs[1]), four(pairs[2], pairs[3]));
    // Either half of `low` holds parts of sums 0 to 3, of `high` parts of sums 4 to 7.
    _mm256_add_ps(_mm256_permute2f128_ps::<0x21>(low, high), _mm256_blend_ps::<0xf0>(low, high))
}

/// Lane `i` of the result is the largest lane of `v[i]`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn largest(v: &[__m256; 8]) -> __m256 {
    let v = transpose(v);
    let pair = |i: usize| _mm256_max_ps(_mm256_max_ps(v[i], v[i + 1]), _mm256_max_ps(v[i + 2], v[i + 3]));
    _mm256_max_ps(pair(0), pair(4))
}

/// Rows to columns of an 8 x 8 block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn transpose(v: &[__m256; 8]) -> [__m256; 8] {
    let two = |i: usize| (_mm256_unpacklo_ps(v[i], v[i + 1]), _mm256_unpackhi_ps(v[i], v[i + 1]));
    let four = |i: usize| {
        let ((a, b), (c, d)) = (two(i), two(i + 2));
        [
            _mm256_shuffle_ps::<0x44>(a, c),
            _mm256_shuffle_ps::<0xee>(a, c),
            _mm256_shuffle_ps::<0x44>(b, d),
            _mm256_shuffle_ps::<0xee>(b, d),
        ]
    };
    let (low, high) = (four(0), four(4));
    let mut out = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        out[i] = _mm256_permute2f128_ps::<0x20>(low[i], high[i]);
        out[i + 4] = _mm256_permute2f128_ps::<0x31>(low[i], high[i]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    fn lanes(f: impl Fn(usize) -> f32) -> [f32; 8] {
        std::array::from_fn(f)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn apply(f: impl Fn(__m256) -> __m256, x: f32) -> f32 {
        let mut out = [0.0; 8];
        store(&mut out, f(load(&[x; 8])));
        out[0]
    }

    #[test]
    fn exponential_and_tanh_are_right_to_2e_7() {
        if !Isa::Avx2.is_available() {
            return println!("skipped: no AVX2");
        }
        for i in 0..200_000 {
            let x = -126.0 * i as f32 / 200_000.0;
            // SAFETY: AVX2, FMA and F16C are there.
            let (e, t) = unsafe { (apply(|x| exp2(x), x), apply(|x| tanh(x), x / 10.0)) };
            let (exact_e, exact_t) = (f64::from(x).exp2(), f64::from(x / 10.0).tanh());
            assert!((f64::from(e) - exact_e).abs() <= 1.5e-7 * exact_e, "2^{x} = {e}");
            assert!((f64::from(t) - exact_t).abs() <= 2e-7 * exact_t.abs(), "tanh {} = {t}", x / 10.0);
        }
        // SAFETY: as above.
        unsafe {
            assert_eq!(apply(|x| exp2(x), 0.0), 1.0);
            assert_eq!(apply(|x| exp2(x), f32::NEG_INFINITY), 0.0);
            assert!(apply(|x| exp2(x), f32::NAN).is_nan());
            assert!(apply(|x| tanh(x), f32::NAN).is_nan());
            assert_eq!(apply(|x| tanh(x), f32::INFINITY), 1.0);
        }
    }

    #[test]
    fn sums_and_maxima_land_in_the_lane_of_their_vector() {
        if !Isa::Avx2.is_available() {
            return println!("skipped: no AVX2");
        }
        let rows: [[f32; 8]; 8] = std::array::from_fn(|r| lanes(|c| ((r * 8 + c) * 37 % 64) as f32));
        let (mut sum, mut max) = ([0.0; 8], [0.0; 8]);
        #[target_feature(enable = "avx2,fma,f16c")]
        fn run(rows: &[[f32; 8]; 8], sum: &mut [f32; 8], max: &mut [f32; 8]) {
            let mut v = [_mm256_setzero_ps(); 8];
            for (v, row) in v.iter_mut().zip(rows) {
                *v = load(row);
            }
            let mut pairs = [_mm256_setzero_ps(); 4];
            for (half, v) in pairs.iter_mut().zip(v.as_chunks::<2>().0) {
                *half = pair(v[0], v[1]);
            }
            store(sum, sums_of_pairs(&pairs));
            store(max, largest(&v));
        }
        // SAFETY: AVX2, FMA and F16C are there.
        unsafe { run(&rows, &mut sum, &mut max) };
        assert_eq!(sum, lanes(|r| rows[r].iter().sum()));
        assert_eq!(max, lanes(|r| rows[r].iter().copied().fold(0.0, f32::max)));
    }
}
