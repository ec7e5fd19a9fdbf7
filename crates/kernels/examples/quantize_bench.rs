//! How fast weights are quantised on this machine: million weights per second of one thread.
//!
//! `cargo run --release -p meden-kernels --example quantize_bench -- [format ...]`

use meden_kernels::{DType, weights};
use std::time::Instant;

/// Weights of a run, and runs of which the fastest counts.
const WEIGHTS: usize = 1 << 19;
const RUNS: usize = 5;

fn main() {
    let chosen: Vec<DType> = std::env::args().skip(1).filter_map(|a| DType::from_name(&a)).collect();
    let dtypes = if chosen.is_empty() { DType::ALL.to_vec() } else { chosen };
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    // Four uniform numbers are normal enough.
    let values: Vec<f32> = (0..WEIGHTS).map(|_| 0.1 * (uniform() + uniform() + uniform() + uniform())).collect();
    for dtype in dtypes {
        let mut out = vec![0; dtype.row_bytes(WEIGHTS).expect("whole blocks")];
        let mut run = || {
            let start = Instant::now();
            weights::quantize(dtype, &values, &mut out).expect("finite values");
            start.elapsed().as_secs_f64()
        };
        let best = (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min);
        println!("{:7} {:8.1}", dtype.name(), WEIGHTS as f64 / best / 1e6);
    }
}
