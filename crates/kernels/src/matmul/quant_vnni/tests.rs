//! On processors that have them: the VNNI kernels give the bits of the AVX2 ones.

use crate::matmul::Activations;
use crate::matmul::plan::Scratch;
use crate::matmul::{quant_avx2, quant_vnni};
use crate::weights::avx2::Avx2Format;
use crate::weights::panel::QUANT_ROWS;
use crate::weights::with_format;
use crate::{DType, Isa, Pool};

/// Three panels of anything, extremes included, but for what would be an f16: those are kept finite by
/// clearing the top bit of every exponent, wherever a format has them.
fn panels<F: Avx2Format>(panel_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut bytes: Vec<u8> = (0..3 * panel_bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for block in bytes.chunks_exact_mut(F::DTYPE.block_bytes() * QUANT_ROWS) {
        let mut at = 0;
        for field in F::FIELDS {
            let field_bytes = &mut block[at * QUANT_ROWS..][..field.len * QUANT_ROWS];
            if field.unit == crate::weights::Unit::Half {
                field_bytes.iter_mut().skip(1).step_by(2).for_each(|high| *high &= 0xbf);
            }
            at += field.len;
        }
    }
    bytes
}

fn compare<F: Avx2Format>() {
    let cols = 2 * F::DTYPE.block_len();
    let panel_bytes = F::DTYPE.row_bytes(cols).unwrap_or(0) * QUANT_ROWS;
    let panels = panels::<F>(panel_bytes);
    let values: Vec<f32> = (0..11 * cols).map(|i| (i as f32 * 0.37).sin() * (1 + i % 5) as f32).collect();
    let mut acts = Activations::new();
    acts.set(&Pool::new(1), &values, cols, Isa::Avx2);
    for rows in [0..1, 3..5, 1..4, 4..8, 2..7, 0..11] {
        let size = 3 * rows.len() * QUANT_ROWS;
        let (mut want, mut avx, mut avx512) = (vec![0f32; size], vec![f32::NAN; size], vec![f32::NAN; size]);
        // SAFETY: each kernel runs only where its level does; the shapes are those made above.
        unsafe {
            let x = acts.blocks();
            quant_avx2::quant_panels::<F>(&panels, panel_bytes, &x, rows.clone(), &mut want, &mut Scratch::default());
            if Isa::Avx2.runs_avx_vnni() {
                quant_vnni::avx_panels::<F>(&panels, panel_bytes, &x, rows.clone(), &mut avx);
                assert_eq!(avx, want, "{} rows {rows:?}: AVX-VNNI", F::DTYPE);
            }
            if Isa::Avx512.runs_avx512() {
                quant_vnni::avx512_panels::<F>(&panels, panel_bytes, &x, rows.clone(), &mut avx512);
                assert_eq!(avx512, want, "{} rows {rows:?}: AVX-512", F::DTYPE);
            }
        }
        assert!(want.iter().all(|sum| sum.is_finite()) && want.iter().any(|&sum| sum != 0.0), "{}", F::DTYPE);
    }
}

#[test]
fn vnni_gives_the_bits_of_avx2() {
    if !Isa::Avx2.is_available() {
        return;
    }
    // Said aloud, because on a processor with neither this has compared nothing.
    println!("AVX-VNNI: {}, AVX-512: {}", Isa::Avx2.runs_avx_vnni(), Isa::Avx512.runs_avx512());
    for dtype in DType::ALL {
        with_format!(dtype, F => compare::<F>(), float => ());
    }
}
