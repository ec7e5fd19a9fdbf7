//! Grouped feed-forwards against the masked reference, and what a token's bits may not depend on.

#![allow(clippy::unwrap_used)]

use meden_kernels::grouped::{
    Activation, DENSE_SHARE, GroupedPlan, LearnerWeights, Learners, Residual, Way, grouped_ffn, masked_ffn,
};
use meden_kernels::{Isa, Pool};
use proptest::prelude::*;

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn learners(pool: &Pool, n: usize, w: usize, d: usize) -> Learners {
    let size = (d as f32).sqrt().recip();
    let scaled = |len, seed| noise(len, seed).into_iter().map(|v| v * size).collect::<Vec<_>>();
    let all: Vec<_> =
        (0..n as u32).map(|i| (scaled(w * d, 3 * i), scaled(w, 3 * i + 1), scaled(w * d, 3 * i + 2))).collect();
    let weights: Vec<_> = all.iter().map(|(w1, b1, w2)| LearnerWeights { w1, b1, w2 }).collect();
    Learners::new(pool, d, Activation::Gelu, &weights).unwrap()
}

fn run(pool: &Pool, isa: Isa, (x, k): (&[f32], &[u8]), l: &Learners, r: Residual) -> (Vec<f32>, Way) {
    let (mut out, mut plan) = (noise(x.len(), 99), GroupedPlan::new());
    grouped_ffn((pool, isa), (x, k), l, r, &mut plan, &mut out).unwrap();
    (out, plan.way())
}

fn near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{what}: value {i} is {a} not {b}");
    }
}

/// Numbers of learners for each token, by several patterns.
fn choices(tokens: usize, n: usize) -> Vec<Vec<u8>> {
    let of = |f: &dyn Fn(usize) -> usize| (0..tokens).map(|t| f(t) as u8).collect();
    let mut all = vec![of(&|t| (t * 7 + t / 3) % (n + 1)), of(&|_| n), of(&|_| 0), of(&|_| n.div_ceil(2))];
    all.push(of(&|t| if t % 17 == 3 { n - 1 } else { n }));
    all
}

#[test]
fn grouped_is_the_masked_reference_on_every_level() {
    for isa in Isa::available() {
        for n in [1, 2, 4, 16] {
            for (tokens, w, d) in [(1, 8, 16), (13, 24, 40), (101, 33, 48), (200, 16, 32), (0, 8, 16)] {
                let pool = Pool::new(2);
                let (l, x) = (learners(&pool, n, w, d), noise(tokens * d, 7));
                let (bias, scale) = (noise(d, 8), noise(d, 9));
                for k in choices(tokens, n) {
                    for (bias, scale) in [(&[][..], &[][..]), (&bias, &[]), (&[], &scale), (&bias, &scale)] {
                        let r = Residual { bias, scale };
                        let mut expected = noise(x.len(), 99);
                        masked_ffn((&pool, isa), (&x, &k), &l, r, &mut expected).unwrap();
                        near(&run(&pool, isa, (&x, &k), &l, r).0, &expected, &format!("{isa} n {n} tokens {tokens}"));
                    }
                }
            }
        }
    }
}

#[test]
fn bits_depend_on_no_thread() {
    for isa in Isa::available() {
        let (d, n, tokens) = (48, 4, 300);
        let x = noise(tokens * d, 1);
        for k in choices(tokens, n) {
            let one = |threads| {
                let pool = Pool::new(threads);
                run(&pool, isa, (&x, &k), &learners(&pool, n, 40, d), Residual::default()).0
            };
            let first = one(1);
            assert!(first == one(2) && first == one(3), "{isa}");
        }
    }
}

#[test]
fn a_tokens_bits_depend_on_no_neighbour_nor_on_the_way() {
    for isa in Isa::available() {
        let (d, n, tokens) = (48, 4, 150);
        let pool = Pool::new(2);
        let (l, x) = (learners(&pool, n, 40, d), noise(tokens * d, 1));
        let start = noise(x.len(), 99);
        let mut ways = Vec::new();
        for k in choices(tokens, n) {
            let (out, way) = run(&pool, isa, (&x, &k), &l, Residual::default());
            ways.push(way);
            for t in 0..tokens {
                // Alone every token of k < n is sorted; in company it may go the dense way.
                let (mut alone, mut plan) = (start[t * d..][..d].to_vec(), GroupedPlan::new());
                let token = (&x[t * d..][..d], &k[t..=t]);
                grouped_ffn((&pool, isa), token, &l, Residual::default(), &mut plan, &mut alone).unwrap();
                assert!(alone == out[t * d..][..d], "{isa} token {t} {way:?}");
            }
        }
        assert!(ways.contains(&Way::Dense) && ways.contains(&Way::Grouped));
    }
}

#[test]
fn the_top_learner_runs() {
    // The published code runs learners 1 .. max - 1, where max is the largest k of the batch.
    let pool = Pool::new(1);
    let (d, n) = (32, 4);
    let (l, x) = (learners(&pool, n, 16, d), noise(20 * d, 4));
    for top in 1..=n {
        let mut k: Vec<u8> = (0..20).map(|t| (t % top) as u8).collect();
        k[11] = top as u8;
        let (out, _) = run(&pool, Isa::best(), (&x, &k), &l, Residual::default());
        k[11] = top as u8 - 1;
        let (less, _) = run(&pool, Isa::best(), (&x, &k), &l, Residual::default());
        assert!(out[11 * d..][..d] != less[11 * d..][..d], "learner {top} does not run");
    }
}

#[test]
fn tokens_of_no_learner_keep_their_bits_and_others_memory_is_not_touched() {
    let pool = Pool::new(2);
    let (d, n, tokens) = (32, 4, 50);
    let (l, x) = (learners(&pool, n, 16, d), noise(tokens * d, 4));
    let k: Vec<u8> = (0..tokens).map(|t| (t % 5) as u8).collect();
    let start = noise(tokens * d, 99);
    let mut guarded = [vec![7.0; 64], start.clone(), vec![7.0; 64]].concat();
    let mut plan = GroupedPlan::new();
    let out = &mut guarded[64..64 + tokens * d];
    grouped_ffn((&pool, Isa::best()), (&x, &k), &l, Residual::default(), &mut plan, out).unwrap();
    for t in (0..tokens).filter(|t| k[*t] == 0) {
        assert!(guarded[64 + t * d..][..d] == start[t * d..][..d]);
    }
    assert!(guarded[..64].iter().chain(&guarded[64 + tokens * d..]).all(|v| *v == 7.0));
}

#[test]
fn permuting_tokens_permutes_outputs_and_the_sort_is_stable() {
    let pool = Pool::new(2);
    let (d, n, tokens) = (32, 4, 90);
    let l = learners(&pool, n, 16, d);
    let (x, k) = (noise(tokens * d, 4), choices(tokens, n).remove(0));
    let swapped = |t: usize| (t * 31 + 5) % tokens;
    let row = |v: &[f32], t: usize| v[t * d..][..d].to_vec();
    let (xp, kp): (Vec<f32>, Vec<u8>) =
        ((0..tokens).flat_map(|t| row(&x, swapped(t))).collect(), (0..tokens).map(|t| k[swapped(t)]).collect());
    let zero = |x: &[f32], k: &[u8]| {
        let (mut out, mut plan) = (vec![0.0; x.len()], GroupedPlan::new());
        grouped_ffn((&pool, Isa::best()), (x, k), &l, Residual::default(), &mut plan, &mut out).unwrap();
        (out, plan)
    };
    let ((out, plan), (permuted, _)) = (zero(&x, &k), zero(&xp, &kp));
    assert!((0..tokens).all(|t| row(&permuted, t) == row(&out, swapped(t))));
    let mut expected: Vec<u32> = (0..tokens as u32).collect();
    expected.sort_by_key(|t| std::cmp::Reverse(k[*t as usize]));
    assert_eq!(plan.order(), expected);
}

#[test]
fn the_worked_example_of_the_specification() {
    // DeiT-S: 197 tokens of 384 values, four learners of 384 neurons.
    let pool = Pool::new(1);
    let l = learners(&pool, 4, 384, 384);
    let counts = [20, 60, 57, 40, 20];
    let k: Vec<u8> = counts.iter().enumerate().flat_map(|(k, n)| vec![k as u8; *n]).collect();
    let x = noise(197 * 384, 2);
    let (mut out, mut plan) = (vec![0.0; x.len()], GroupedPlan::new());
    grouped_ffn((&pool, Isa::best()), (&x, &k), &l, Residual::default(), &mut plan, &mut out).unwrap();
    assert_eq!(plan.rows(), [177, 117, 60, 20]);
    assert_eq!(plan.rows().iter().sum::<usize>(), 374);
    assert_eq!(plan.way(), Way::Grouped);
    let macs: u64 = k.iter().map(|k| l.macs(usize::from(*k))).sum();
    assert_eq!(macs, 374 * 2 * 384 * 384);
    assert_eq!(197 * l.macs(4), 197 * 2 * 384 * 1536);
    assert!((plan.share() - 374.0 / 788.0).abs() < 1e-12);
}

#[test]
fn the_dense_way_begins_at_the_stated_share() {
    let pool = Pool::new(1);
    let l = learners(&pool, 4, 8, 16);
    let x = noise(100 * 16, 2);
    for lower in [0, 27, 28, 29, 60] {
        let k: Vec<u8> = (0..100).map(|t| if t < lower { 3 } else { 4 }).collect();
        let share = (400 - lower) as f64 / 400.0;
        let way = run(&pool, Isa::best(), (&x, &k), &l, Residual::default()).1;
        assert_eq!(way, if share > DENSE_SHARE { Way::Dense } else { Way::Grouped }, "share {share}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_writes_nothing() {
    let pool = Pool::new(1);
    let l = learners(&pool, 4, 8, 16);
    let (x, mut out, mut plan) = (noise(32, 1), vec![5.0; 32], GroupedPlan::new());
    let mut go =
        |x: &[f32], k: &[u8], r: Residual| grouped_ffn((&pool, Isa::best()), (x, k), &l, r, &mut plan, &mut out);
    assert!(go(&x, &[1, 5], Residual::default()).is_err());
    assert!(go(&x, &[1], Residual::default()).is_err());
    assert!(go(&x[..31], &[1, 1], Residual::default()).is_err());
    assert!(go(&x, &[1, 1], Residual { bias: &x[..3], scale: &[] }).is_err());
    assert!(out.iter().all(|v| *v == 5.0));
    let w = LearnerWeights { w1: &x, b1: &[], w2: &x[..16] };
    assert!(Learners::new(&pool, 16, Activation::Gelu, &[w]).is_err());
    assert!(Learners::new(&pool, 16, Activation::Gelu, &[]).is_err());
    let empty = LearnerWeights { w1: &[], b1: &[], w2: &[] };
    assert!(Learners::new(&pool, 16, Activation::Gelu, &[empty]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_shape_and_choice_is_the_reference(
        n in 1usize..6, w in 1usize..40, d in 1usize..50, k in proptest::collection::vec(0u8..6, 0..120), seed in 0u32..1000
    ) {
        let pool = Pool::new(2);
        let k: Vec<u8> = k.into_iter().map(|k| k.min(n as u8)).collect();
        let (l, x) = (learners(&pool, n, w, d), noise(k.len() * d, seed));
        let mut expected = noise(x.len(), 99);
        masked_ffn((&pool, Isa::best()), (&x, &k), &l, Residual::default(), &mut expected).unwrap();
        let (out, _) = run(&pool, Isa::best(), (&x, &k), &l, Residual::default());
        for (a, b) in out.iter().zip(&expected) {
            prop_assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} not {b}");
        }
    }
}
