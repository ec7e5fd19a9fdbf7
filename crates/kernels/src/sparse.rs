//! Products with few rows out of many: what sparse codes need.
//!
//! A sparse autoencoder has thousands of latents, of which some tens are active for a token. These functions meet only
//! the rows of the active ones. Each has one fixed order of operations, which the scalar twin follows with fused
//! multiply-adds of its own, so every level gives the same bits.

use crate::isa::Isa;

/// Sums of eight lanes that a dot product keeps apart.
const CHAINS: usize = 4;
const LANES: usize = 8;

/// What a step of Adam needs beside the numbers it changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Step size.
    pub rate: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// `1 / (1 - beta1^t)`.
    pub correct1: f32,
    /// `1 / (1 - beta2^t)`.
    pub correct2: f32,
}

/// `a · b`.
///
/// # Panics
/// If the lengths differ.
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: two operands");
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2 and FMA, and the lengths are equal.
        return unsafe { avx2::dot(a, b) };
    }
    let _ = isa;
    scalar::dot(a, b)
}

/// `out[j] = x · rows[which[j]]`, with `rows`: (n, x.len()).
///
/// # Panics
/// If the lengths differ, or a row does not exist.
pub fn gather_dots(isa: Isa, x: &[f32], rows: &[f32], which: &[u32], out: &mut [f32]) {
    assert_eq!(which.len(), out.len(), "gather_dots: one output a row");
    for (out, &row) in out.iter_mut().zip(which) {
        *out = dot(isa, x, &rows[row as usize * x.len()..][..x.len()]);
    }
}

/// `out += sum over j of by[j] * rows[which[j]]`, with `rows`: (n, out.len()).
///
/// # Panics
/// If the lengths differ, or a row does not exist.
pub fn gather_sum(isa: Isa, rows: &[f32], which: &[u32], by: &[f32], out: &mut [f32]) {
    let width = out.len();
    assert_eq!(which.len(), by.len(), "gather_sum: one factor a row");
    let fits = |&row: &u32| (row as usize + 1).checked_mul(width).is_some_and(|end| end <= rows.len());
    assert!(which.iter().all(fits), "gather_sum: a row that does not exist");
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2 and FMA; every row lies in `rows`.
        return unsafe { avx2::gather_sum(rows, which, by, out) };
    }
    let _ = isa;
    scalar::gather_sum(rows, which, by, out);
}

/// Largest values of the strips of `x`: `out[j]` is the largest of `x[j], x[j + out.len()], ...`; NaN counts for nothing.
pub fn strip_max(isa: Isa, x: &[f32], out: &mut [f32]) {
    out.fill(f32::NEG_INFINITY);
    if out.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2.
        return unsafe { avx2::strip_max(x, out) };
    }
    let _ = isa;
    scalar::strip_max(x, out);
}

/// Appends the numbers of the values that are at least `bound`, ascending.
pub fn at_least(isa: Isa, x: &[f32], bound: f32, out: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2.
        return unsafe { avx2::at_least(x, bound, out) };
    }
    let _ = isa;
    scalar::at_least(x, bound, 0, out);
}

/// One step of Adam (Kingma and Ba, arXiv 1412.6980) on `w` with gradient `g` and moments `m`, `v`.
///
/// # Panics
/// If the lengths differ.
pub fn adam(isa: Isa, step: &Adam, (w, g): (&mut [f32], &[f32]), (m, v): (&mut [f32], &mut [f32])) {
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adam: four operands");
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2, and the lengths are equal.
        return unsafe { avx2::adam(step, (w, g), (m, v)) };
    }
    let _ = isa;
    scalar::adam(step, (w, g), (m, v));
}

mod scalar {
    use super::{Adam, CHAINS, LANES};

    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let whole = a.len() / (CHAINS * LANES) * (CHAINS * LANES);
        let mut sums = [[0f32; LANES]; CHAINS];
        for at in (0..whole).step_by(CHAINS * LANES) {
            for (chain, sums) in sums.iter_mut().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let i = at + chain * LANES + lane;
                    *sum = a[i].mul_add(b[i], *sum);
                }
            }
        }
        let lane = |l: usize| (sums[0][l] + sums[1][l]) + (sums[2][l] + sums[3][l]);
        let half = |l: usize| lane(l) + lane(l + 4);
        let sum = (half(0) + half(2)) + (half(1) + half(3));
        tail(&a[whole..], &b[whole..], sum)
    }

    pub(super) fn tail(a: &[f32], b: &[f32], sum: f32) -> f32 {
        a.iter().zip(b).fold(sum, |sum, (a, b)| a.mul_add(*b, sum))
    }

    pub(super) fn gather_sum(rows: &[f32], which: &[u32], by: &[f32], out: &mut [f32]) {
        let width = out.len();
        for (&row, &by) in which.iter().zip(by) {
            let row = &rows[row as usize * width..][..width];
            for (out, value) in out.iter_mut().zip(row) {
                *out = by.mul_add(*value, *out);
            }
        }
    }

    pub(super) fn strip_max(x: &[f32], out: &mut [f32]) {
        for strip in x.chunks(out.len()) {
            for (out, &value) in out.iter_mut().zip(strip) {
                if value > *out {
                    *out = value;
                }
            }
        }
    }

    pub(super) fn at_least(x: &[f32], bound: f32, first: u32, out: &mut Vec<u32>) {
        out.extend(x.iter().zip(first..).filter(|(value, _)| **value >= bound).map(|(_, number)| number));
    }

    pub(super) fn adam(step: &Adam, (w, g): (&mut [f32], &[f32]), (m, v): (&mut [f32], &mut [f32])) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            *m = step.beta1 * *m + (1.0 - step.beta1) * g;
            *v = step.beta2 * *v + (1.0 - step.beta2) * (g * g);
            *w -= step.rate * (*m * step.correct1) / ((*v * step.correct2).sqrt() + step.eps);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Adam, CHAINS, LANES, scalar};
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX2 and FMA are there; the lengths are equal.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
        let whole = a.len() / (CHAINS * LANES) * (CHAINS * LANES);
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        for at in (0..whole).step_by(CHAINS * LANES) {
            for (chain, sum) in sums.iter_mut().enumerate() {
                let i = at + chain * LANES;
                // SAFETY: `i + LANES <= whole`, which is within both.
                let (x, y) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), _mm256_loadu_ps(b.as_ptr().add(i))) };
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        let lanes = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        let half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let pairs = _mm_add_ps(half, _mm_movehl_ps(half, half));
        let sum = _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
        scalar::tail(&a[whole..], &b[whole..], sum)
    }

    /// # Safety
    /// AVX2 and FMA are there; every row of `which` lies in `rows`; `by` is as long as `which`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn gather_sum(rows: &[f32], which: &[u32], by: &[f32], out: &mut [f32]) {
        const BLOCK: usize = 8;
        let width = out.len();
        let mut at = 0;
        // eight registers of sums stay while all rows pass
        while at + BLOCK * LANES <= width {
            // SAFETY: columns `at .. at + BLOCK * LANES` are in `out` and in every row.
            unsafe {
                let to = out.as_mut_ptr().add(at);
                let mut sums: [__m256; BLOCK] = std::array::from_fn(|i| _mm256_loadu_ps(to.add(i * LANES)));
                for (&row, &by) in which.iter().zip(by) {
                    let from = rows.as_ptr().add(row as usize * width + at);
                    let by = _mm256_set1_ps(by);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_fmadd_ps(by, _mm256_loadu_ps(from.add(i * LANES)), *sum);
                    }
                }
                for (i, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(to.add(i * LANES), *sum);
                }
            }
            at += BLOCK * LANES;
        }
        for column in at..width {
            for (&row, &by) in which.iter().zip(by) {
                out[column] = by.mul_add(rows[row as usize * width + column], out[column]);
            }
        }
    }

    /// # Safety
    /// AVX2 is there.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn strip_max(x: &[f32], out: &mut [f32]) {
        for strip in x.chunks(out.len()) {
            let whole = strip.len() / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: `at + LANES <= whole`, which is within both. The second operand wins where one is NaN.
                unsafe {
                    let to = out.as_mut_ptr().add(at);
                    let larger = _mm256_max_ps(_mm256_loadu_ps(strip.as_ptr().add(at)), _mm256_loadu_ps(to));
                    _mm256_storeu_ps(to, larger);
                }
            }
            if whole < strip.len() {
                scalar::strip_max(&strip[whole..], &mut out[whole..strip.len()]);
            }
        }
    }

    /// # Safety
    /// AVX2 is there.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn at_least(x: &[f32], bound: f32, out: &mut Vec<u32>) {
        let whole = x.len() / LANES * LANES;
        let wanted = _mm256_set1_ps(bound);
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + LANES <= whole`, which is within `x`.
            let values = unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) };
            let mut mask = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(values, wanted));
            while mask != 0 {
                out.push(at as u32 + mask.trailing_zeros());
                mask &= mask - 1;
            }
        }
        scalar::at_least(&x[whole..], bound, whole as u32, out);
    }

    /// # Safety
    /// AVX2 is there; the lengths are equal.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn adam(step: &Adam, (w, g): (&mut [f32], &[f32]), (m, v): (&mut [f32], &mut [f32])) {
        let whole = w.len() / LANES * LANES;
        let all = |x: f32| _mm256_set1_ps(x);
        let (b1, b2, a1, a2) = (all(step.beta1), all(step.beta2), all(1.0 - step.beta1), all(1.0 - step.beta2));
        let (c1, c2, eps, rate) = (all(step.correct1), all(step.correct2), all(step.eps), all(step.rate));
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + LANES <= whole`, which is within all four.
            unsafe {
                let (pw, pm, pv) = (w.as_mut_ptr().add(at), m.as_mut_ptr().add(at), v.as_mut_ptr().add(at));
                let g = _mm256_loadu_ps(g.as_ptr().add(at));
                let m = _mm256_add_ps(_mm256_mul_ps(b1, _mm256_loadu_ps(pm)), _mm256_mul_ps(a1, g));
                let v = _mm256_add_ps(_mm256_mul_ps(b2, _mm256_loadu_ps(pv)), _mm256_mul_ps(a2, _mm256_mul_ps(g, g)));
                let root = _mm256_add_ps(_mm256_sqrt_ps(_mm256_mul_ps(v, c2)), eps);
                let change = _mm256_div_ps(_mm256_mul_ps(rate, _mm256_mul_ps(m, c1)), root);
                _mm256_storeu_ps(pm, m);
                _mm256_storeu_ps(pv, v);
                _mm256_storeu_ps(pw, _mm256_sub_ps(_mm256_loadu_ps(pw), change));
            }
        }
        scalar::adam(step, (&mut w[whole..], &g[whole..]), (&mut m[whole..], &mut v[whole..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of both signs and many magnitudes, from a multiplicative generator.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state as f32 / u32::MAX as f32 - 0.5) * 4.0
            })
            .collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn every_level_gives_the_bits_of_the_scalar_twin() {
        for isa in Isa::available() {
            for n in [0, 1, 7, 8, 24, 31, 32, 33, 64, 100, 576, 577] {
                let (a, b) = (numbers(n, 1), numbers(n, 2));
                assert_eq!(dot(isa, &a, &b).to_bits(), scalar::dot(&a, &b).to_bits(), "{isa:?} {n}");
                let (rows, by) = (numbers(n * 9, 3), numbers(4, 4));
                let which = [8, 0, 3, 3];
                let (mut fast, mut plain) = (a.clone(), a.clone());
                gather_sum(isa, &rows, &which, &by, &mut fast);
                scalar::gather_sum(&rows, &which, &by, &mut plain);
                assert_eq!(bits(&fast), bits(&plain), "{isa:?} {n}");
                let mut dots = [0.0; 4];
                gather_dots(isa, &a, &rows, &which, &mut dots);
                assert_eq!(dots[1].to_bits(), scalar::dot(&a, &rows[..n]).to_bits());
                for strips in [1, 5, 8, 18] {
                    let (mut fast, mut plain) = (vec![0.0; strips], vec![f32::NEG_INFINITY; strips]);
                    strip_max(isa, &a, &mut fast);
                    scalar::strip_max(&a, &mut plain);
                    assert_eq!(bits(&fast), bits(&plain));
                }
                let (mut fast, mut plain) = (vec![9], vec![9]);
                at_least(isa, &a, 0.25, &mut fast);
                scalar::at_least(&a, 0.25, 0, &mut plain);
                assert_eq!(fast, plain);
                let step = Adam { rate: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, correct1: 10.0, correct2: 1000.0 };
                let (mut w1, mut m1, mut v1) = (a.clone(), b.clone(), vec![0.5; n]);
                let (mut w2, mut m2, mut v2) = (a.clone(), b.clone(), vec![0.5; n]);
                adam(isa, &step, (&mut w1, &b), (&mut m1, &mut v1));
                scalar::adam(&step, (&mut w2, &b), (&mut m2, &mut v2));
                assert_eq!((bits(&w1), bits(&m1), bits(&v1)), (bits(&w2), bits(&m2), bits(&v2)));
            }
        }
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        let (a, b) = (numbers(333, 5), numbers(333, 6));
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((f64::from(dot(Isa::best(), &a, &b)) - exact).abs() < 1e-4);
        let (mut w, mut m, mut v) = (vec![1.0], vec![0.0], vec![0.0]);
        // the first step of Adam goes by the rate, against the gradient's sign
        let step = Adam { rate: 0.1, beta1: 0.9, beta2: 0.999, eps: 0.0, correct1: 10.0, correct2: 1000.0 };
        adam(Isa::Scalar, &step, (&mut w, &[-3.0]), (&mut m, &mut v));
        assert!((w[0] - 1.1).abs() < 1e-5, "{w:?}");
        let mut found = Vec::new();
        at_least(Isa::best(), &[1.0, f32::NAN, 2.0, -1.0, 2.0], 2.0, &mut found);
        assert_eq!(found, [2, 4]);
    }
}
