//! How fast products are on this machine: weight bytes per second for one row (decode is bound by memory),
//! operations per second for many (prefill is bound by arithmetic).
//!
//! `cargo run --release -p meden-kernels --example matmul_bench -- [isa=avx2] [format ...]`
//!
//! Each number is the best of several rounds, because other programs share the machine. One-row products
//! walk through copies of the matrix larger than the caches, as decoding walks through a model.

use meden_kernels::{Activations, DType, Isa, Matrix, Pool, matmul, weights};
use std::time::Instant;

/// Shapes (n, k) of a small language model: up, down, output head.
const SHAPES: [(usize, usize); 3] = [(1536, 576), (576, 1536), (49152, 576)];
/// Weight bytes walked through for one row: beyond a 32 MiB last-level cache.
const WALK: usize = 96 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let isa = args.iter().find_map(|a| a.strip_prefix("isa=")?.parse().ok()).unwrap_or_else(Isa::best);
    let chosen: Vec<DType> = args.iter().filter_map(|a| DType::from_name(a)).collect();
    let dtypes = if chosen.is_empty() { DType::ALL.to_vec() } else { chosen };
    let pools = [Pool::new(1), Pool::new(2)];
    println!("{isa}; GB/s of weights at m=1, GOP/s at m=128 and m=512, each with 1 and 2 threads");
    println!("format  shape         m=1: 1t    2t   m=128: 1t    2t   m=512: 1t    2t");
    for dtype in dtypes {
        for (n, k) in SHAPES {
            let Some(row_bytes) = dtype.row_bytes(k / dtype.block_len() * dtype.block_len()) else { continue };
            let k = k / dtype.block_len() * dtype.block_len();
            let bytes = row_bytes * n;
            let copies = if n > 10_000 { 1 } else { (WALK / bytes).max(1) };
            let make = |_| Matrix::new(dtype, n, k, filled(dtype, bytes), isa).expect("a valid matrix");
            let matrices: Vec<Matrix> = (0..copies).map(make).collect();
            print!("{:7} {:>5}x{:<5}", dtype.name(), n, k);
            for pool in &pools {
                let seconds = best(7, || walk(pool, &matrices, 1));
                print!(" {:>8.1}", (bytes * copies) as f64 / seconds / 1e9);
            }
            let rows = if n > 10_000 { [128, 128] } else { [128, 512] };
            for m in rows {
                print!("  ");
                for pool in &pools {
                    let seconds = best(7, || walk(pool, &matrices[..1], m));
                    print!(" {:>6.1}", (2 * m * n * k) as f64 / seconds / 1e9);
                }
            }
            println!();
        }
    }
}

/// Weights of that many bytes: structure does not matter for speed, finite scales do (NaN is as fast, but
/// denormals are not).
fn filled(dtype: DType, bytes: usize) -> Vec<u8> {
    let values: Vec<f32> = (0..dtype.block_len().max(32)).map(|i| (i as f32 * 0.7).sin()).collect();
    let pattern = match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::BF16 => weights::quantize_bf16(&values),
        DType::F16 => weights::quantize_f16(&values),
        DType::Q8_0 => weights::quantize_q8_0(&values),
        _ => vec![0x2e; dtype.block_bytes()],
    };
    pattern.iter().copied().cycle().take(bytes).collect()
}

/// Seconds of one pass over the matrices with `m` rows, activations set once.
fn walk(pool: &Pool, matrices: &[Matrix], m: usize) -> f64 {
    let (n, k) = (matrices[0].rows(), matrices[0].cols());
    let x: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).cos()).collect();
    let mut acts = Activations::new();
    let mut y = vec![0.0; m * n];
    acts.set(pool, &x, k, matrices[0].isa());
    let start = Instant::now();
    for w in matrices {
        matmul(pool, &acts, w, &mut y).expect("matching shapes");
    }
    start.elapsed().as_secs_f64()
}

fn best(rounds: usize, mut run: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| run()).fold(f64::INFINITY, f64::min)
}
