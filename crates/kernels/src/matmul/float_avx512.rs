//! A panel of plain floats (k, 16) times some rows of f32 activations, with AVX-512.
//!
//! The sixteen outputs are one register, and a multiplication takes its activation, repeated, from memory.
//! Twelve rows make twelve independent chains, enough to keep two multiply-add units busy, whose results
//! take four cycles. Otherwise as `float_avx2`: the same stretches (`float_tiles`), and the same chain along
//! k for each output, so the same bits. Weights of 16 bits are widened once for twelve rows, which is too seldom for a
//! widened copy to pay.

use super::float_tiles::{self, AHEAD, Rows, STREAMED, Tile};
use crate::DType;
use crate::weights::panel::FLOAT_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a tile.
const TILE: usize = 12;

/// Rows `x`: (rows, cols) times a panel; `tile`: (rows, 16).
///
/// # Safety
/// AVX-512 F, BW and VL are there; `panel` holds (cols, 16) values of a plain float `dtype`, `tile` sixteen
/// values for each row of `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn float_panel(dtype: DType, panel: &[u8], x: &[f32], cols: usize, tile: &mut [f32]) {
    debug_assert!(panel.len() == cols * FLOAT_ROWS * dtype.block_bytes());
    debug_assert!(tile.len() * cols >= x.len() * FLOAT_ROWS);
    tile.fill(0.0);
    // SAFETY: the caller's promises, passed on.
    unsafe {
        match dtype {
            DType::F16 => stretches::<F16>(panel, x, cols, tile),
            DType::BF16 => stretches::<Bf16>(panel, x, cols, tile),
            _ => stretches::<F32>(panel, x, cols, tile),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn stretches<L: Load>(panel: &[u8], x: &[f32], cols: usize, tile: &mut [f32]) {
    for span in float_tiles::stretches(cols) {
        let weights = panel[span.start * L::BYTES..span.end * L::BYTES].as_ptr();
        // SAFETY: `weights` holds the span's columns.
        unsafe { all_rows::<L>(weights, x, cols, span, tile) };
    }
}

/// How sixteen weights get into a register.
trait Load {
    /// Bytes they take.
    const BYTES: usize = 32;

    /// # Safety
    /// AVX-512 is there; `BYTES` bytes are readable at `at`.
    unsafe fn load(at: *const u8) -> __m512;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_ps(at.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 32 bytes.
        let halves = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// Adds the products along columns `span`, whose weights begin at `weights`, to the sums in `tile`.
///
/// # Safety
/// AVX-512 is there; `weights` holds as many columns as `span`, which lies within `cols`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn all_rows<L: Load>(weights: *const u8, x: &[f32], cols: usize, span: Range<usize>, tile: &mut [f32]) {
    for Tile { height, x, out } in float_tiles::tiles(x, cols, span, tile, TILE) {
        // SAFETY: `x` and `out` have `height` rows, which is what the constant says.
        unsafe {
            match height {
                1 => rows::<L, 1>(weights, x, out),
                2 => rows::<L, 2>(weights, x, out),
                3 => rows::<L, 3>(weights, x, out),
                4 => rows::<L, 4>(weights, x, out),
                5 => rows::<L, 5>(weights, x, out),
                6 => rows::<L, 6>(weights, x, out),
                7 => rows::<L, 7>(weights, x, out),
                8 => rows::<L, 8>(weights, x, out),
                9 => rows::<L, 9>(weights, x, out),
                10 => rows::<L, 10>(weights, x, out),
                11 => rows::<L, 11>(weights, x, out),
                _ => rows::<L, 12>(weights, x, out),
            }
        }
    }
}

/// # Safety
/// AVX-512 is there; `M` rows are readable in `x`, `M` rows of sixteen writable at `out`, and (len, 16)
/// weights readable at `weights`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows<L: Load, const M: usize>(weights: *const u8, x: Rows, out: *mut f32) {
    // SAFETY: `k < x.len` and `i < M` everywhere.
    unsafe {
        let mut sums: [__m512; M] = std::array::from_fn(|i| _mm512_loadu_ps(out.add(i * FLOAT_ROWS)));
        for k in 0..x.len {
            if M <= STREAMED {
                _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(k * L::BYTES + AHEAD).cast());
            }
            let w = L::load(weights.add(k * L::BYTES));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*x.x.add(i * x.stride + k)), w, *sum);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.add(i * FLOAT_ROWS), *sum);
        }
    }
}
