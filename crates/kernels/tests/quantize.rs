//! Quantising: to the bit where a definition exists, by its error where a search does the work.
//!
//! `golden_quantize.json` was made once by the PyPI package `gguf` (its version is in the file).
#![allow(clippy::unwrap_used)]

use meden_kernels::{DType, KernelError, Pool, weights};
use serde_json::Value;

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn quantized(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xa5; dtype.row_bytes(values.len()).unwrap()];
    weights::quantize(dtype, values, &mut bytes).unwrap();
    bytes
}

fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut back = vec![0.0; values.len()];
    weights::dequantize(dtype, &quantized(dtype, values), &mut back).unwrap();
    back
}

/// Root mean square of the error over that of the values.
fn relative_error(dtype: DType, values: &[f32]) -> f64 {
    let back = there_and_back(dtype, values);
    let square = |sum: f64, x: f64| sum + x * x;
    let wrong = values.iter().zip(&back).map(|(a, b)| f64::from(a - b)).fold(0.0, square);
    (wrong / values.iter().map(|&v| f64::from(v)).fold(0.0, square)).sqrt()
}

/// A counter-based generator: uniform in (0, 1).
fn uniform(seed: u64, at: u64) -> f64 {
    let mut x = (seed << 32 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
    for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
        x = (x ^ x >> shift).wrapping_mul(factor);
    }
    ((x ^ x >> 31) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
}

fn gaussian(seed: u64, len: usize) -> Vec<f32> {
    let at = |i: usize| {
        let (u, v) = (uniform(seed, 2 * i as u64), uniform(seed, 2 * i as u64 + 1));
        (0.05 * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..len).map(at).collect()
}

/// Student's t with three degrees of freedom.
fn heavy(seed: u64, len: usize) -> Vec<f32> {
    let normal = gaussian(seed, 4 * len);
    let t = |g: &[f32]| g[0] / ((g[1] * g[1] + g[2] * g[2] + g[3] * g[3]) / 3.0).sqrt().max(1e-4);
    normal.chunks_exact(4).map(|g| 0.05 * t(g)).collect()
}

#[test]
fn formats_that_are_defined_are_the_reference_bytes() {
    let file: Value = serde_json::from_str(include_str!("golden_quantize.json")).unwrap();
    let bytes = hex(&file["values"]);
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let rows = file["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    for row in rows {
        let dtype = DType::from_name(row["dtype"].as_str().unwrap()).unwrap();
        let (got, want) = (quantized(dtype, &values), hex(&row["bytes"]));
        let size = dtype.block_bytes();
        for (i, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
            assert_eq!(got, want, "{dtype} block {i}");
        }
    }
}

/// Errors of the searches on these very values; a search that gets worse by a hundredth fails.
#[test]
fn searches_are_as_good_as_they_were_measured() {
    let (gaussian, heavy) = (gaussian(1, 1 << 16), heavy(2, 1 << 16));
    let mut wrong = Vec::new();
    for (dtype, most) in MEASURED {
        let got = [relative_error(dtype, &gaussian), relative_error(dtype, &heavy)];
        println!("(DType::{dtype:?}, [{:.5}, {:.5}]),", got[0], got[1]);
        wrong.extend(
            got.iter().zip(most).filter(|(got, most)| **got > most * 1.01).map(|(got, most)| (dtype, *got, most)),
        );
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

const MEASURED: [(DType, [f64; 2]); 7] = [
    (DType::Q2K, [0.27350, 0.30652]),
    (DType::Q3K, [0.15318, 0.19270]),
    (DType::Q4K, [0.07155, 0.09341]),
    (DType::Q5K, [0.03563, 0.04650]),
    (DType::Q6K, [0.01777, 0.02580]),
    (DType::IQ4NL, [0.07626, 0.10276]),
    (DType::IQ4XS, [0.07679, 0.10388]),
];

#[test]
fn more_bits_are_less_error() {
    use DType::*;
    for values in [gaussian(3, 1 << 14), heavy(4, 1 << 14)] {
        for ladder in [&[Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0, F16, F32][..], &[Q4_0, Q5_0, Q8_0], &[Q4_1, Q5_1, Q8_0]] {
            let errors: Vec<f64> = ladder.iter().map(|&d| relative_error(d, &values)).collect();
            assert!(errors.is_sorted_by(|a, b| a > b), "{ladder:?}: {errors:?}");
        }
        assert!(relative_error(IQ4XS, &values) < relative_error(Q4_0, &values));
        assert!(relative_error(IQ4NL, &values) < relative_error(Q4_0, &values));
    }
}

#[test]
fn zeros_and_constants_keep_their_value() {
    for dtype in DType::ALL {
        assert!(there_and_back(dtype, &[0.0; 512]).iter().all(|&v| v == 0.0), "{dtype}");
        for constant in [0.75, -0.75, 1e-3, -300.0] {
            for (i, back) in there_and_back(dtype, &[constant; 512]).into_iter().enumerate() {
                assert!((back - constant).abs() <= 0.01 * constant.abs(), "{dtype} {i}: {constant} became {back}");
            }
        }
    }
}

#[test]
fn one_value_among_zeros_leaves_them_zero_and_survives() {
    for dtype in DType::ALL {
        for value in [3.0, -3.0] {
            let mut values = [0.0; 256];
            values[37] = value;
            let back = there_and_back(dtype, &values);
            // a minimum is rounded to f16; the uneven levels have none at zero, the least is 1 of 127
            let slack = if matches!(dtype, DType::IQ4NL | DType::IQ4XS) { 0.03 } else { 0.003 };
            assert!((back[37] - value).abs() < 0.05, "{dtype}: {value} became {}", back[37]);
            let others = back.iter().enumerate().filter(|(i, _)| *i != 37);
            assert!(others.map(|(_, v)| v.abs()).fold(0.0, f32::max) <= slack, "{dtype}: {back:?}");
        }
    }
}

#[test]
fn huge_tiny_and_mixed_values_come_back_finite() {
    let wide = |i: usize| 10f32.powf((i % 77) as f32 - 38.5) * if i.is_multiple_of(3) { -1.0 } else { 1.0 };
    let cases: [(&str, Vec<f32>); 7] = [
        ("largest", vec![f32::MAX; 256]),
        ("both ends", (0..256).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect()),
        ("beyond f16", gaussian(5, 256).iter().map(|v| v * 1e8).collect()),
        ("denormal", (0..256).map(f32::from_bits).collect()),
        ("smallest normal", vec![-f32::MIN_POSITIVE; 256]),
        ("below f16", gaussian(6, 256).iter().map(|v| v * 1e-9).collect()),
        ("every magnitude", (0..256).map(wide).collect()),
    ];
    for dtype in DType::ALL {
        for (name, values) in &cases {
            let back = there_and_back(dtype, values);
            assert!(back.iter().all(|v| v.is_finite()), "{dtype}, {name}: {back:?}");
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            assert!(sum(&back) <= 2.0 * sum(values), "{dtype}, {name}: larger than what came in");
        }
    }
}

#[test]
fn what_is_no_number_is_refused_with_its_place() {
    let pool = Pool::new(2);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = gaussian(7, 512 * 300);
        values[512 * 201 + 5] = bad;
        values[512 * 290] = bad;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for dtype in DType::ALL.into_iter().filter(|&d| d != DType::F32) {
            let mut out = vec![0; dtype.row_bytes(512).unwrap() * 300];
            let error = weights::convert(&pool, (DType::F32, dtype), 512, &bytes, &mut out).unwrap_err();
            assert!(matches!(&error, KernelError::NotFinite { index, .. } if *index == 512 * 201 + 5), "{error}");
            let error = weights::quantize(dtype, &values, &mut out).unwrap_err();
            assert!(error.to_string().contains(&bad.to_string()), "{error}");
        }
    }
}

/// The largest power of two times `sign` of which nothing is said to be lost, refined to a few bits.
fn limit(dtype: DType, sign: f32) -> f32 {
    let lost = |magnitude: f32| {
        let mut values = [0.0; 256];
        values[37] = sign * magnitude;
        let mut out = vec![0; dtype.row_bytes(256).unwrap()];
        weights::quantize(dtype, &values, &mut out).unwrap() > 0
    };
    let (mut fits, mut beyond) = (1f32.to_bits(), f32::MAX.to_bits());
    assert!(!lost(1.0) && lost(f32::MAX), "{dtype}");
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        if lost(f32::from_bits(middle)) { beyond = middle } else { fits = middle }
    }
    f32::from_bits(fits)
}

#[test]
fn values_beyond_a_format_are_counted_and_held_at_its_end() {
    let pool = Pool::new(2);
    for dtype in DType::ALL.into_iter().filter(|&d| d != DType::F32) {
        for sign in [1.0, -1.0] {
            let limit = limit(dtype, sign);
            let alone = |value: f32| {
                let mut values = [0.0; 256];
                values[37] = value;
                there_and_back(dtype, &values)[37]
            };
            // what fits comes back, what does not comes back as what fits
            let far = (limit * 3.0).min(f32::MAX);
            let (inside, outside) = (alone(sign * limit) / limit, alone(sign * far) / limit);
            assert!((sign * inside - 1.0).abs() < 0.01, "{dtype}: {limit} came back as {inside} of it");
            assert!((sign * outside - 1.0).abs() < 0.01, "{dtype}: {far} came back as {outside} of {limit}");
        }
        let mut values = gaussian(9, 512 * 300);
        for at in [3, 512 * 100 + 7, 512 * 100 + 300, 512 * 299 + 511] {
            values[at] = f32::MAX;
        }
        let mut out = vec![0; dtype.row_bytes(512).unwrap() * 300];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let beyond = weights::convert(&pool, (DType::F32, dtype), 512, &bytes, &mut out).unwrap();
        assert_eq!(beyond, 4, "{dtype}");
        assert_eq!(weights::quantize(dtype, &gaussian(9, 512), &mut out[..dtype.row_bytes(512).unwrap()]), Ok(0));
    }
}

#[test]
fn bytes_of_the_wanted_type_are_copied_only_when_every_scale_is_finite() {
    let pool = Pool::new(2);
    for dtype in DType::ALL {
        let good = quantized(dtype, &gaussian(10, 512 * 200));
        let copied = |bytes: &[u8]| {
            let mut out = vec![0; bytes.len()];
            weights::convert(&pool, (dtype, dtype), 512, bytes, &mut out).map(|beyond| (beyond, out))
        };
        assert_eq!(copied(&good).unwrap(), (0, good.clone()));
        let (size, mut refused) = (dtype.block_bytes(), 0);
        let block = good.len() / size / 2;
        for at in (0..size.saturating_sub(1)).step_by(2) {
            let mut bad = good.clone();
            bad[block * size + at..][..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
            let mut values = vec![0.0; 512 * 200];
            weights::dequantize(dtype, &bad, &mut values).unwrap();
            match values.iter().position(|v| !v.is_finite()) {
                None => assert_eq!(copied(&bad).unwrap().1, bad),
                Some(first) => {
                    let error = copied(&bad).unwrap_err();
                    assert!(
                        matches!(error, KernelError::NotFinite { index, .. } if index == first),
                        "{dtype}: {error}"
                    );
                    assert_eq!(weights::check(&pool, dtype, 512, &bad), Err(error));
                    refused += 1;
                }
            }
        }
        // a bf16 or f32 number of these two bytes is finite
        assert!(refused > 0 || matches!(dtype, DType::BF16 | DType::F32), "{dtype}");
    }
}

#[test]
fn rows_are_the_same_on_any_number_of_threads() {
    let values = heavy(8, 768 * 50);
    let bytes = quantized(DType::F16, &values);
    let mut halves = vec![0.0; values.len()];
    weights::dequantize(DType::F16, &bytes, &mut halves).unwrap();
    for dtype in [DType::Q4_0, DType::Q4K, DType::Q6K, DType::IQ4XS, DType::F32] {
        let whole = quantized(dtype, &halves);
        for threads in [1, 3] {
            let mut out = vec![0; whole.len()];
            weights::convert(&Pool::new(threads), (DType::F16, dtype), 768, &bytes, &mut out).unwrap();
            assert_eq!(out, whole, "{dtype}, {threads} threads");
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_errors_with_both_numbers() {
    let pool = Pool::new(1);
    let error = weights::quantize(DType::Q4K, &[0.0; 255], &mut [0; 144]).unwrap_err();
    assert!(matches!(error, KernelError::Columns { cols: 255, block: 256, .. }), "{error}");
    let error = weights::quantize(DType::Q8_0, &[0.0; 32], &mut [0; 33]).unwrap_err();
    assert!(matches!(error, KernelError::Length { expected: 34, got: 33, .. }), "{error}");
    let error = weights::convert(&pool, (DType::F32, DType::Q8_0), 32, &[0; 127], &mut [0; 34]).unwrap_err();
    assert!(matches!(error, KernelError::Length { got: 127, .. }), "{error}");
    let error = weights::convert(&pool, (DType::F32, DType::Q8_0), 0, &[], &mut []).unwrap_err();
    assert!(matches!(error, KernelError::Columns { cols: 0, .. }), "{error}");
}
