//! Row-wise operations against f64, and their bits against each other.
#![allow(clippy::unwrap_used)]

use meden_kernels::isa::Isa;
use meden_kernels::ops::{
    PARALLEL_VALUES, add, add_bias, gelu_tanh_mul, hadamard, hadamard_row, l2_norm, rms_norm, rms_norm_inplace, rope,
    scale, silu_mul, softcap,
};
use meden_kernels::pool::Pool;
use proptest::prelude::*;

fn values(seed: u64, n: usize, size: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next() * size).collect()
}

fn assert_near(got: &[f32], expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    let mut count = 0;
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() <= tolerance * e.abs().max(1.0), "[{i}]: {g} against {e}");
        count += 1;
    }
    assert_eq!(count, got.len());
}

/// Runs `f` on every instruction set and on one and two threads; all must give the same bits. Returns them.
fn everywhere(input: &[f32], f: impl Fn(&Pool, Isa, &mut [f32])) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        for threads in [1, 2] {
            let mut x = input.to_vec();
            f(&Pool::new(threads), isa, &mut x);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            match &first {
                Some(first) => assert_eq!(bits(first), bits(&x), "{isa}, {threads} threads"),
                None => first = Some(x),
            }
        }
    }
    first.expect("scalar code is always available")
}

fn wide(x: &[f32]) -> impl Iterator<Item = f64> + '_ {
    x.iter().map(|x| f64::from(*x))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn rms_norm_divides_by_the_root_mean_square(rows in 1usize..5, n in 1usize..700, seed: u64) {
        let (x, weight) = (values(seed, rows * n, 3.0), values(seed ^ 1, n, 2.0));
        let got = everywhere(&x, |pool, isa, out| rms_norm(pool, isa, &x, &weight, 1e-5, out));
        let expected: Vec<f64> = x.chunks(n).flat_map(|row| {
            let mean = wide(row).map(|x| x * x).sum::<f64>() / n as f64;
            wide(row).zip(wide(&weight)).map(move |(x, w)| x / (mean + 1e-5).sqrt() * w).collect::<Vec<_>>()
        }).collect();
        assert_near(&got, expected, 1e-5);
        prop_assert_eq!(everywhere(&x, |pool, isa, x| rms_norm_inplace(pool, isa, x, &weight, 1e-5)), got);
    }

    #[test]
    fn gates_follow_their_formulas(n in 0usize..500, seed: u64, size in prop::sample::select(vec![1.0f32, 10.0, 200.0])) {
        let (gate, up) = (values(seed, n, size), values(seed ^ 1, n, 2.0));
        let silu = everywhere(&gate, |pool, isa, x| silu_mul(pool, isa, x, &up));
        assert_near(&silu, wide(&gate).zip(wide(&up)).map(|(g, u)| g / (1.0 + (-g).exp()) * u), 1e-6);
        let gelu = everywhere(&gate, |pool, isa, x| gelu_tanh_mul(pool, isa, x, &up));
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let act = |g: f64| g / 2.0 * (1.0 + (root * (g + 0.044715 * g * g * g)).tanh());
        assert_near(&gelu, wide(&gate).zip(wide(&up)).map(|(g, u)| act(g) * u), 2e-6);
    }

    #[test]
    fn rope_turns_pairs_by_their_angle_and_leaves_the_rest(
        m in 1usize..6, heads in 1usize..4, half in 1usize..40, rest in 0usize..9, seed: u64,
    ) {
        let dim = 2 * half + rest;
        let x = values(seed, m * heads * dim, 1.0);
        let angles = values(seed ^ 1, m * half, 3.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let got = everywhere(&x, |pool, isa, x| rope(pool, isa, x, dim, &cos, &sin, 2 * half));
        for (i, (got, x)) in got.chunks(dim).zip(x.chunks(dim)).enumerate() {
            for pair in 0..half {
                let angle = f64::from(angles[i / heads * half + pair]);
                let (a, b) = (f64::from(x[pair]), f64::from(x[pair + half]));
                let turned = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()];
                assert_near(&[got[pair], got[pair + half]], turned, 1e-6);
            }
            prop_assert_eq!(&got[2 * half..], &x[2 * half..]);
        }
    }

    #[test]
    fn hadamard_is_the_matrix_of_signs_and_undoes_itself(rows in 0usize..5, log in 0u32..9, seed: u64) {
        let dim = 1usize << log;
        let x = values(seed, rows * dim, 2.0);
        let got = everywhere(&x, |pool, isa, x| hadamard(pool, isa, x, dim));
        for (got, x) in got.chunks(dim).zip(x.chunks(dim)) {
            // Entry (i, j) is the sign that the parity of the common bits of i and j gives.
            let entry = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            let sum = |i: usize| (0..dim).map(|j| entry(i, j) * f64::from(x[j])).sum::<f64>() / (dim as f64).sqrt();
            assert_near(got, (0..dim).map(sum), 2e-6);
            let mut one = x.to_vec();
            hadamard_row(&mut one);
            prop_assert_eq!(&one[..], got);
        }
        let twice = everywhere(&got, |pool, isa, x| hadamard(pool, isa, x, dim));
        assert_near(&twice, wide(&x), 2e-6);
    }

    #[test]
    fn sums_factors_and_caps(rows in 0usize..4, n in 1usize..300, seed: u64) {
        let (x, y) = (values(seed, rows * n, 80.0), values(seed ^ 1, rows * n, 3.0));
        let sum = everywhere(&x, |pool, isa, x| add(pool, isa, x, &y));
        prop_assert!(sum.iter().zip(x.iter().zip(&y)).all(|(s, (x, y))| *s == x + y));
        let bias = values(seed ^ 2, n, 1.0);
        let biased = everywhere(&x, |pool, isa, x| add_bias(pool, isa, x, &bias));
        prop_assert!(biased.iter().zip(x.iter().zip(bias.iter().cycle())).all(|(s, (x, y))| *s == x + y));
        let scaled = everywhere(&x, |pool, isa, x| scale(pool, isa, x, 0.3));
        prop_assert!(scaled.iter().zip(&x).all(|(s, x)| *s == x * 0.3));
        let capped = everywhere(&x, |pool, isa, x| softcap(pool, isa, x, 30.0));
        assert_near(&capped, wide(&x).map(|x| 30.0 * (x / 30.0).tanh()), 1e-6);
    }

    #[test]
    fn l2_norm_is_the_length(n in 0usize..400, seed: u64) {
        let x = values(seed, n, 4.0);
        assert_near(&[l2_norm(&x)], [wide(&x).map(|x| x * x).sum::<f64>().sqrt()], 1e-6);
    }
}

/// Large enough that the pool is used, with sizes that cut badly.
#[test]
fn large_inputs_give_the_bits_of_small_ones() {
    let n = 577;
    let rows = 4 * PARALLEL_VALUES / n + 3;
    let (x, y, weight) = (values(1, rows * n, 5.0), values(2, rows * n, 1.0), values(3, n, 1.0));
    let by_row = |f: &dyn Fn(&mut [f32], usize)| {
        let mut out = x.clone();
        out.chunks_mut(n).enumerate().for_each(|(row, x)| f(x, row));
        out
    };
    let (one, isa) = (Pool::new(1), Isa::best());
    let norm = everywhere(&x, |pool, isa, x| rms_norm_inplace(pool, isa, x, &weight, 1e-6));
    assert_eq!(norm, by_row(&|x, _| rms_norm_inplace(&one, isa, x, &weight, 1e-6)));
    let copied = everywhere(&x, |pool, isa, out| rms_norm(pool, isa, &x, &weight, 1e-6, out));
    assert_eq!(norm, copied);
    let silu = everywhere(&x, |pool, isa, x| silu_mul(pool, isa, x, &y));
    assert_eq!(silu, by_row(&|x, row| silu_mul(&one, isa, x, &y[row * n..][..n])));
    let biased = everywhere(&x, |pool, isa, x| add_bias(pool, isa, x, &weight));
    assert_eq!(biased, by_row(&|x, _| add_bias(&one, isa, x, &weight)));
    // One head of 576 channels and one that is not turned.
    let angles = |row: usize| (row * 288..(row + 1) * 288).map(|i| (i as f32).sin()).collect::<Vec<f32>>();
    let all: Vec<f32> = (0..rows).flat_map(angles).collect();
    let turned = everywhere(&x, |pool, isa, x| rope(pool, isa, x, n, &all, &all, 576));
    assert_eq!(turned, by_row(&|x, row| rope(&one, isa, x, n, &angles(row), &angles(row), 576)));
}
