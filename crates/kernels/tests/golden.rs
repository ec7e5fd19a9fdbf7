//! Dequantising agrees to the bit with the reference implementation in Python.
//!
//! `golden.json` was made once by the PyPI package `gguf` (its version is in the file): random block bytes
//! with moderate scales, and what `gguf.quants.dequantize` makes of them.
#![allow(clippy::unwrap_used)]

use meden_kernels::{Activations, DType, Isa, Matrix, Pool, matmul, weights};
use serde_json::Value;

struct Row {
    dtype: DType,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("a hex string");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("two hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn golden() -> Vec<Row> {
    let file: Value = serde_json::from_str(include_str!("golden.json")).expect("valid JSON");
    let row = |row: &Value| Row {
        dtype: DType::from_name(row["dtype"].as_str().expect("a name")).expect("a known format"),
        bytes: hex(&row["bytes"]),
        values: hex(&row["values"]).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    };
    file["rows"].as_array().expect("rows").iter().map(row).collect()
}

#[test]
fn every_format_dequantises_to_the_reference_values() {
    let rows = golden();
    assert_eq!(rows.len(), DType::ALL.len(), "one row for each format");
    for Row { dtype, bytes, values } in rows {
        let mut got = vec![0.0; values.len()];
        weights::dequantize(dtype, &bytes, &mut got).expect("matching lengths");
        for (i, (got, want)) in got.iter().zip(&values).enumerate() {
            assert_eq!(got, want, "{dtype} value {i}");
        }
    }
}

#[test]
fn a_resident_row_is_the_reference_row_in_every_place_of_a_panel() {
    for Row { dtype, bytes, values } in golden() {
        for rows in [1, 8, 19] {
            let matrix = Matrix::new(dtype, rows, values.len(), bytes.repeat(rows), Isa::best());
            let matrix = matrix.expect("a valid matrix");
            let mut got = vec![0.0; values.len()];
            for r in 0..rows {
                matrix.row(r, &mut got);
                assert_eq!(got, values, "{dtype} row {r} of {rows}");
            }
        }
    }
}

/// The kernels never dequantise, so the reference must hold for them separately: against an exact product
/// of the reference values with activations that int8 carries without rounding.
#[test]
fn products_agree_with_the_reference_values_on_exact_activations() {
    let pool = Pool::new(1);
    for Row { dtype, bytes, values } in golden() {
        let cols = values.len();
        // Integers up to 127, the largest in every block, are their own quantisation.
        let x: Vec<f32> =
            (0..cols).map(|i| if i % 32 == 5 { 127.0 } else { ((i * 37) % 255) as f32 - 127.0 }).collect();
        let exact: f64 = x.iter().zip(&values).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        let magnitude: f64 = x.iter().zip(&values).map(|(&x, &w)| f64::from(x * w).abs()).sum();
        for isa in Isa::available() {
            let matrix = Matrix::new(dtype, 1, cols, bytes.clone(), isa).expect("a valid matrix");
            let mut acts = Activations::new();
            acts.set(&pool, &x, cols, isa);
            let mut y = [0.0];
            matmul(&pool, &acts, &matrix, &mut y).expect("matching shapes");
            let error = (f64::from(y[0]) - exact).abs();
            assert!(error <= 2e-6 * magnitude, "{dtype} {isa}: {} against {exact}", y[0]);
        }
    }
}

#[test]
fn wrong_lengths_are_errors_with_both_numbers() {
    let error = weights::dequantize(DType::Q4_1, &[0; 19], &mut [0.0; 32]).expect_err("19 bytes");
    assert!(error.to_string().contains("19") && error.to_string().contains("20"), "{error}");
    let error = weights::dequantize(DType::Q6K, &[0; 210], &mut [0.0; 255]).expect_err("255 values");
    assert!(error.to_string().contains("255") && error.to_string().contains("256"), "{error}");
}
