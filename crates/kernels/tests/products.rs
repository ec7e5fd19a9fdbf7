//! Products: fast paths against the scalar twin, and independence of threads, of m and of the neighbours.
#![allow(clippy::unwrap_used)]

use meden_kernels::matmul::Needs;
use meden_kernels::{Activations, DType, Isa, KernelError, Matrix, Pool, matmul, matmul_many, ops, weights};
use proptest::prelude::*;

/// A seeded stream of bytes (xorshift), enough to fill weights.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// Rows of random blocks whose f16 fields are moderate numbers.
    fn weights(&mut self, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
        match dtype {
            DType::F32 => return self.floats(rows * cols).into_iter().flat_map(f32::to_le_bytes).collect(),
            DType::F16 => return weights::quantize_f16(&self.floats(rows * cols)),
            DType::BF16 => return weights::quantize_bf16(&self.floats(rows * cols)),
            _ => {}
        }
        let halves: &[usize] = match dtype {
            DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
            DType::Q2K => &[80, 82],
            DType::Q3K => &[108],
            DType::Q6K => &[208],
            _ => &[0],
        };
        let size = dtype.row_bytes(cols).expect("whole blocks") * rows;
        let mut bytes: Vec<u8> = (0..size).map(|_| (self.next() >> 32) as u8).collect();
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            for &at in halves {
                block[at..at + 2].copy_from_slice(&weights::quantize_f16(&[0.1 * self.float()]));
            }
        }
        bytes
    }
}

fn product(pool: &Pool, w: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut acts = Activations::new();
    acts.set(pool, x, w.cols(), w.isa());
    let mut y = vec![f32::NAN; acts.rows() * w.rows()];
    matmul(pool, &acts, w, &mut y).expect("matching shapes");
    y
}

/// For each output, the sum of the magnitudes that were added: what rounding is relative to.
fn magnitudes(w: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; w.cols()];
    let mut out = vec![0.0; x.len() / w.cols() * w.rows()];
    for r in 0..w.rows() {
        w.row(r, &mut row);
        for (i, x) in x.chunks_exact(w.cols()).enumerate() {
            out[i * w.rows() + r] = x.iter().zip(&row).map(|(x, w)| (x * w).abs()).sum();
        }
    }
    out
}

fn dtypes() -> impl Strategy<Value = DType> {
    proptest::sample::select(DType::ALL.to_vec())
}

fn cols_of(dtype: DType, blocks: usize) -> usize {
    // Floats need no whole blocks, but should reach beyond the stretch that a kernel takes at a time.
    if dtype.is_float() { 131 * blocks } else { dtype.block_len() * blocks }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_level_agrees_with_the_scalar_twin(
        dtype in dtypes(),
        n in proptest::sample::select(vec![1usize, 7, 8, 9, 16, 33]),
        m in proptest::sample::select(vec![1usize, 2, 3, 4, 5, 17]),
        blocks in 1usize..6,
        seed in 1u64..u64::MAX,
    ) {
        let mut noise = Noise(seed);
        let cols = cols_of(dtype, blocks);
        let bytes = noise.weights(dtype, n, cols);
        let x = noise.floats(m * cols);
        let pool = Pool::new(2);
        let twin = Matrix::new(dtype, n, cols, bytes.clone(), Isa::Scalar).expect("valid");
        let want = product(&pool, &twin, &x);
        let scale = magnitudes(&twin, &x);
        for isa in Isa::available() {
            let w = Matrix::new(dtype, n, cols, bytes.clone(), isa).expect("valid");
            for (i, (got, want)) in product(&pool, &w, &x).iter().zip(&want).enumerate() {
                prop_assert!(
                    (got - want).abs() <= 1e-5 * scale[i] + 1e-6,
                    "{dtype} {isa} {m}x{n}x{cols} output {i}: {got} against {want}"
                );
            }
        }
    }

    #[test]
    fn the_twin_agrees_with_dequantised_rows_up_to_the_rounding_of_activations(
        dtype in dtypes(),
        blocks in 1usize..4,
        seed in 1u64..u64::MAX,
    ) {
        let mut noise = Noise(seed);
        let (n, m, cols) = (5, 3, cols_of(dtype, blocks));
        let w = Matrix::new(dtype, n, cols, noise.weights(dtype, n, cols), Isa::Scalar).expect("valid");
        let x = noise.floats(m * cols);
        let got = product(&Pool::new(1), &w, &x);
        let mut row = vec![0.0; cols];
        for r in 0..n {
            w.row(r, &mut row);
            for (i, x) in x.chunks_exact(cols).enumerate() {
                let want: f32 = x.iter().zip(&row).map(|(x, w)| x * w).sum();
                // An activation moves by at most half a step of 1/127 of its block's largest.
                let slack: f32 = if dtype.is_float() { 0.0 } else { row.iter().map(|w| w.abs() / 254.0).sum() };
                let got = got[i * n + r];
                prop_assert!((got - want).abs() <= slack * 1.01 + 1e-4, "{dtype}: {got} against {want}");
            }
        }
    }
}

#[test]
fn threads_rows_and_neighbours_change_no_bit() {
    for dtype in DType::ALL {
        for isa in Isa::available() {
            let mut noise = Noise(7);
            let (n, m, cols) = (203, 31, 512);
            let w = Matrix::new(dtype, n, cols, noise.weights(dtype, n, cols), isa).expect("valid");
            let x = noise.floats(m * cols);
            let (one, two) = (Pool::new(1), Pool::new(3));
            let all = product(&one, &w, &x);
            assert_eq!(all, product(&two, &w, &x), "{dtype} {isa}: threads");
            for rows in [1, 2, 3, 4, 5, 7] {
                let few = product(&two, &w, &x[..rows * cols]);
                assert_eq!(few, all[..rows * n], "{dtype} {isa}: {rows} rows");
            }
        }
    }
}

#[test]
fn vector_levels_agree_to_the_bit() {
    let levels: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa > Isa::Scalar).collect();
    for dtype in DType::ALL {
        let mut noise = Noise(29);
        // An odd number of panels, the last one not full, and columns beyond one stretch of floats.
        let (n, cols) = (35, 512);
        let bytes = noise.weights(dtype, n, cols);
        for m in [1, 2, 4, 5, 13] {
            let x = noise.floats(m * cols);
            let results = levels.iter().map(|&isa| {
                let w = Matrix::new(dtype, n, cols, bytes.clone(), isa).expect("valid");
                product(&Pool::new(1), &w, &x)
            });
            let results: Vec<Vec<f32>> = results.collect();
            for (isa, result) in levels.iter().zip(&results) {
                assert_eq!(*result, results[0], "{dtype} {isa} against {}: {m} rows", levels[0]);
            }
        }
    }
}

#[test]
fn several_products_at_once_are_the_products_one_by_one() {
    let mut noise = Noise(11);
    let (m, cols) = (5, 256);
    let x = noise.floats(m * cols);
    let pool = Pool::new(2);
    let shapes = [(DType::Q4_1, 96), (DType::F32, 7), (DType::Q6K, 33), (DType::BF16, 16)];
    let weights: Vec<Matrix> = shapes
        .iter()
        .map(|&(d, n)| Matrix::new(d, n, cols, noise.weights(d, n, cols), Isa::best()).expect("valid"))
        .collect();
    let mut acts = Activations::new();
    acts.set(&pool, &x, cols, Isa::best());
    let mut outputs: Vec<Vec<f32>> = weights.iter().map(|w| vec![f32::NAN; m * w.rows()]).collect();
    let mut jobs: Vec<_> = weights.iter().zip(outputs.iter_mut().map(Vec::as_mut_slice)).collect();
    matmul_many(&pool, &acts, &mut jobs).expect("matching shapes");
    for (w, got) in weights.iter().zip(&outputs) {
        assert_eq!(*got, product(&pool, w, &x), "{}", w.dtype());
    }
}

#[test]
fn rows_normed_on_their_way_in_are_those_of_the_norm() {
    let mut noise = Noise(77);
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for (m, cols) in [(1, 64), (3, 576), (90, 192), (0, 64)] {
            let (x, weight) = (noise.floats(m * cols), noise.floats(cols));
            let mut normed = vec![0.0; x.len()];
            ops::rms_norm(&pool, isa, &x, &weight, 1e-5, &mut normed);
            let matrices = [DType::F32, DType::Q8_0]
                .map(|dtype| Matrix::new(dtype, 24, cols, noise.weights(dtype, 24, cols), isa).unwrap());
            for needs in [Needs::ALL, Needs::of(&[&matrices[0]]), Needs::of(&[&matrices[1]])] {
                let (mut twin, mut fused) = (Activations::new(), Activations::new());
                // rows of another size before must leave nothing behind
                fused.set(&pool, &noise.floats(5 * 2 * cols), 2 * cols, isa);
                twin.set_for(&pool, &normed, cols, isa, needs);
                fused.set_normed(&pool, &x, (&weight, 1e-5), isa, needs);
                for w in &matrices {
                    let of = |acts: &Activations| {
                        let mut y = vec![0.0; m * 24];
                        matmul(&pool, acts, w, &mut y).map(|()| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
                    };
                    assert_eq!(of(&fused), of(&twin), "{isa}, {m} rows of {cols}, {needs:?}, {}", w.dtype());
                }
            }
            // rows that no block divides have no int8 copy, and nothing is written in its place
            let mut uneven = Activations::new();
            let blocks = Needs { floats: false, blocks: true };
            uneven.set_normed(&pool, &noise.floats(2 * 20), (&noise.floats(20), 1e-5), isa, blocks);
            assert_eq!((uneven.rows(), uneven.cols()), (2, 20));
        }
    }
}

#[test]
fn a_mapped_weight_gives_the_bits_of_a_resident_one() {
    use std::io::Write;
    use std::sync::Arc;
    let mut noise = Noise(13);
    let (n, m, cols, offset) = (21, 6, 256, 37);
    for dtype in DType::ALL {
        let bytes = noise.weights(dtype, n, cols);
        let path = std::env::temp_dir().join(format!("meden-products-{}-{dtype}", std::process::id()));
        let mut file = std::fs::File::create(&path).expect("a temporary file");
        file.write_all(&vec![0xff; offset]).and_then(|()| file.write_all(&bytes)).expect("written");
        let map = Arc::new(meden_kernels::mem::MappedFile::open(&path).expect("mapped"));
        std::fs::remove_file(&path).expect("removed");
        let mapped = Matrix::from_mapped(dtype, n, cols, Arc::clone(&map), offset, Isa::best()).expect("valid");
        let beyond = Matrix::from_mapped(dtype, n, cols, map, offset + 1, Isa::best());
        assert!(matches!(beyond, Err(KernelError::OutsideMap { .. })), "one byte too far");
        let resident = Matrix::new(dtype, n, cols, bytes, Isa::best()).expect("valid");
        assert_eq!(mapped.bytes(), 0);
        let x = noise.floats(m * cols);
        let pool = Pool::new(2);
        assert_eq!(product(&pool, &mapped, &x), product(&pool, &resident, &x), "{dtype}");
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        mapped.row(n - 1, &mut a);
        resident.row(n - 1, &mut b);
        assert_eq!(a, b, "{dtype}");
    }
}

#[test]
fn extreme_integers_do_not_saturate() {
    // Every weight and activation at the end of its range: a sum that wraps or saturates shows at once.
    for dtype in DType::ALL.into_iter().filter(|d| !d.is_float()) {
        for fill in [0x00u8, 0x80, 0x7f, 0xff] {
            let cols = 2 * dtype.block_len();
            let mut bytes = vec![fill; dtype.row_bytes(cols).expect("whole blocks")];
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                let at = match dtype {
                    DType::Q2K => 80,
                    DType::Q3K => 108,
                    DType::Q6K => 208,
                    _ => 0,
                };
                block[at..at + 2].copy_from_slice(&weights::quantize_f16(&[0.5]));
                if matches!(dtype, DType::Q2K | DType::Q4K | DType::Q5K | DType::Q4_1 | DType::Q5_1) {
                    block[at + 2..at + 4].copy_from_slice(&weights::quantize_f16(&[0.25]));
                }
            }
            for sign in [1.0, -1.0] {
                let x = vec![sign; cols];
                let results = Isa::available().into_iter().map(|isa| {
                    let w = Matrix::new(dtype, 1, cols, bytes.clone(), isa).expect("valid");
                    product(&Pool::new(1), &w, &x)[0]
                });
                let results: Vec<f32> = results.collect();
                let close = |y: &f32| (y - results[0]).abs() <= 1e-5 * results[0].abs() + 1e-3;
                assert!(results.iter().all(close), "{dtype} filled with {fill:#x}: {results:?}");
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_do_not_pass_silently() {
    let mut noise = Noise(17);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for isa in Isa::available() {
            let w = Matrix::new(DType::Q4_1, 8, 64, noise.weights(DType::Q4_1, 8, 64), isa).expect("valid");
            let mut x = noise.floats(2 * 64);
            x[64 + 40] = bad;
            let y = product(&Pool::new(1), &w, &x);
            assert!(y[..8].iter().all(|y| y.is_finite()), "{isa}: the clean row");
            assert!(y[8..].iter().all(|y| y.is_nan()), "{isa}: the row with {bad}");
        }
    }
}

#[test]
fn disagreeing_shapes_are_refused_before_anything_is_written() {
    let pool = Pool::new(1);
    let w = Matrix::from_f32(3, 4, vec![1.0; 12], Isa::best()).expect("valid");
    let mut acts = Activations::new();
    acts.set(&pool, &[1.0; 10], 5, Isa::best());
    let mut y = [7.0; 6];
    assert!(matches!(matmul(&pool, &acts, &w, &mut y), Err(KernelError::Mismatch { left: 5, right: 4, .. })));
    acts.set(&pool, &[1.0; 8], 4, Isa::best());
    assert!(matches!(matmul(&pool, &acts, &w, &mut y[..5]), Err(KernelError::Mismatch { left: 5, right: 6, .. })));
    acts.set_for(&pool, &[1.0; 8], 4, Isa::best(), Needs { floats: false, blocks: true });
    assert_eq!(matmul(&pool, &acts, &w, &mut y), Err(KernelError::ActivationsLack(DType::F32)));
    assert_eq!(y, [7.0; 6]);
    acts.set_for(&pool, &[1.0; 8], 4, Isa::best(), Needs::of(&[&w]));
    matmul(&pool, &acts, &w, &mut y).expect("matching shapes");
    assert_eq!(y, [4.0; 6]);
    assert!(matches!(
        Matrix::from_f32(3, 4, vec![1.0; 11], Isa::Scalar),
        Err(KernelError::Length { expected: 12, got: 11, .. })
    ));
    assert!(matches!(
        Matrix::new(DType::Q8_0, 1, 33, vec![0; 34], Isa::Scalar),
        Err(KernelError::Columns { cols: 33, .. })
    ));
    assert!(matches!(
        Matrix::new(DType::F32, usize::MAX / 8, 16, Vec::new(), Isa::Scalar),
        Err(KernelError::TooLarge { .. })
    ));
}

#[test]
fn empty_products_are_empty_and_products_over_nothing_are_zero() {
    let pool = Pool::new(2);
    let nothing = Matrix::from_f32(0, 4, Vec::new(), Isa::best()).expect("valid");
    assert!(product(&pool, &nothing, &[1.0; 8]).is_empty());
    let some = Matrix::from_f32(3, 4, vec![1.0; 12], Isa::best()).expect("valid");
    assert!(product(&pool, &some, &[]).is_empty());
}

#[test]
fn rounding_to_a_format_and_back_stays_within_half_a_step() {
    let values = Noise(23).floats(320);
    for (dtype, step) in [
        (DType::Q8_0, 1.0 / 127.0),
        (DType::Q4_0, 1.0 / 7.0),
        (DType::Q4_1, 1.0 / 14.0),
        (DType::F16, 1.0 / 2048.0),
        (DType::BF16, 1.0 / 256.0),
    ] {
        let mut bytes = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
        weights::quantize(dtype, &values, &mut bytes).expect("finite values");
        let mut back = vec![0.0; values.len()];
        weights::dequantize(dtype, &bytes, &mut back).expect("matching lengths");
        let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= step && worst > 0.0, "{dtype}: {worst} against {step}");
    }
}
