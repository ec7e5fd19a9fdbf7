//! How fast grouped feed-forwards are beside a dense one, at the shapes of ViT-S: milliseconds by mean k, and where they go.
//!
//! `cargo run --release -p meden-kernels --example grouped_bench -- [isa=avx2] [threads=2] [rounds=15]`
//!
//! Ways are timed in turn, round by round, and the median counts, because other programs share the machine.

use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::grouped::{Activation, GroupedPlan, LearnerWeights, Learners, Residual, grouped_ffn, masked_ffn};
use meden_kernels::{Isa, Pool, ops};
use std::time::Instant;

const D: usize = 384;
const MLP: usize = 1536;
const N: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
    let isa = value("isa").and_then(|v| v.parse().ok()).unwrap_or_else(Isa::best);
    let threads = value("threads").and_then(|v| v.parse().ok()).unwrap_or(0);
    let rounds = value("rounds").and_then(|v| v.parse().ok()).unwrap_or(15usize).max(1);
    let pool = Pool::new(threads);
    println!(
        "{isa}, {} threads; {N} learners of {} neurons on {D} values; median milliseconds of {rounds}",
        pool.threads(),
        MLP / N
    );
    println!("batch tokens  dense  | k = N  ratio | mean N/2  ratio  masked | k = 0  ratio");
    let weights: Vec<Vec<f32>> = (0..2 * N).map(|i| noise(MLP / N * D, i as u32)).collect();
    let bias = vec![0.1; MLP];
    let parts: Vec<_> =
        (0..N).map(|n| LearnerWeights { w1: &weights[n], b1: &bias[..MLP / N], w2: &weights[N + n] }).collect();
    let learners = Learners::new(&pool, D, Activation::Gelu, &parts).expect("valid learners");
    let dense =
        Dense { fc1: panels(&pool, &noise(MLP * D, 50), D), fc2: panels(&pool, &noise(MLP * D, 51), MLP), bias };
    for (batch, tokens) in [(8, 197), (8, 257), (1, 197), (1, 37), (8, 37)] {
        let rows = batch * tokens;
        let x = noise(rows * D, 9);
        let (mut out, mut hidden, mut plan) = (vec![0.0; rows * D], vec![0.0; rows * MLP], GroupedPlan::new());
        let ks = [vec![N as u8; rows], (0..rows).map(|t| (t * 7 % 5) as u8).collect(), vec![0; rows]];
        let mut times = vec![Vec::new(); 5];
        for _ in 0..rounds {
            times[0].push(milliseconds(|| dense.run(&pool, isa, &x, &mut hidden, &mut out)));
            for (i, k) in ks.iter().enumerate() {
                let r = Residual::default();
                let mut go = || grouped_ffn((&pool, isa), (&x, k), &learners, r, &mut plan, &mut out).expect("valid");
                times[i + 1].push(milliseconds(&mut go));
            }
            let mut go =
                || masked_ffn((&pool, isa), (&x, &ks[1]), &learners, Residual::default(), &mut out).expect("valid");
            times[4].push(milliseconds(&mut go));
        }
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let m: Vec<f64> = times.iter_mut().map(median).collect();
        println!(
            "{batch:>5} {tokens:>6} {:>7.3} | {:>6.3} {:>5.3} | {:>7.3} {:>6.3} {:>7.3} | {:>6.4} {:>5.4}",
            m[0],
            m[1],
            m[1] / m[0],
            m[2],
            m[2] / m[0],
            m[4],
            m[3],
            m[3] / m[0]
        );
    }
}

/// A feed-forward as `Vit` runs it.
struct Dense {
    fc1: Panels,
    fc2: Panels,
    bias: Vec<f32>,
}

impl Dense {
    fn run(&self, pool: &Pool, isa: Isa, x: &[f32], hidden: &mut [f32], out: &mut [f32]) {
        let gelu =
            |_: usize, col: usize, out: &mut [f32]| ops::bias_gelu_row(isa, out, &self.bias[col..col + out.len()]);
        gemm(pool, isa, View::new(x, D), &self.fc1, hidden, Options { finish: Some(&gelu), ..Options::default() });
        let add = |_: usize, col: usize, out: &mut [f32]| {
            out.iter_mut().zip(&self.bias[col..]).for_each(|(o, b)| *o += b);
        };
        gemm(pool, isa, View::new(hidden, MLP), &self.fc2, out, Options { accumulate: true, finish: Some(&add) });
    }
}

fn panels(pool: &Pool, weight: &[f32], cols: usize) -> Panels {
    Panels::of(pool, View::new(weight, cols).transposed())
}

fn milliseconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e3
}

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.05
    };
    (0..len).map(|_| next()).collect()
}
