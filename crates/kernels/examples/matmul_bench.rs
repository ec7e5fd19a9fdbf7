//! How fast products are on this machine: weight bytes per second for one row (decode is bound by memory),
//! operations per second for many (prefill is bound by arithmetic).
//!
//! `cargo run --release -p meden-kernels --example matmul_bench -- [isa=avx2] [format ...]`
//!
//! Each product is timed by itself and the best ones count, because other programs share the machine.
//! One-row products walk through copies of the matrix larger than the caches, as decoding walks through a
//! model.

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
                // The fastest tenth, not the very fastest: that one may have found its weights in a cache.
                let seconds = Walk::new(pool, &matrices, 1).seconds(20usize.div_ceil(copies).max(3));
                print!(" {:>8.1}", bytes as f64 / seconds[seconds.len() / 10] / 1e9);
            }
            let rows = if n > 10_000 { [128, 128] } else { [128, 512] };
            for m in rows {
                print!("  ");
                for pool in &pools {
                    let rounds = (1_000_000_000 / (m * n * k)).clamp(5, 30);
                    let seconds = Walk::new(pool, &matrices[..1], m).seconds(rounds);
                    print!(" {:>6.1}", (2 * m * n * k) as f64 / seconds[0] / 1e9);
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
        DType::F32 | DType::BF16 | DType::F16 | DType::Q8_0 => {
            let mut bytes = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
            weights::quantize(dtype, &values, &mut bytes).expect("finite values");
            bytes
        }
        _ => vec![0x2e; dtype.block_bytes()],
    };
    pattern.iter().copied().cycle().take(bytes).collect()
}

/// Passes over some matrices of one shape with the same activations and the same output.
struct Walk<'a> {
    pool: &'a Pool,
    matrices: &'a [Matrix],
    x: Activations,
    y: Vec<f32>,
}

impl<'a> Walk<'a> {
    fn new(pool: &'a Pool, matrices: &'a [Matrix], m: usize) -> Walk<'a> {
        let (n, k) = (matrices[0].rows(), matrices[0].cols());
        let values: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).cos()).collect();
        let mut x = Activations::new();
        x.set(pool, &values, k, matrices[0].isa());
        Walk { pool, matrices, x, y: vec![1.0; m * n] }
    }

    /// Seconds of each product, one after another, `rounds` times over all matrices.
    fn seconds(&mut self, rounds: usize) -> Vec<f64> {
        let mut seconds = Vec::with_capacity(rounds * self.matrices.len());
        for w in (0..rounds).flat_map(|_| self.matrices) {
            let start = Instant::now();
            matmul(self.pool, &self.x, w, &mut self.y).expect("matching shapes");
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        seconds
    }
}
