//! A panel of plain floats (k, 16) times some rows of f32 activations, with AVX2 and FMA.
//!
//! Tiles of six rows by sixteen outputs: twelve sums, two weight vectors and a broadcast fill the sixteen
//! registers, and twelve independent chains keep both multiply-add units busy. How panel and rows are cut is
//! `float_tiles`. F16 and BF16 widen as they are loaded for few rows; for many a stretch is widened once into
//! scratch.

use super::float_tiles::{self, AHEAD, Rows, STREAMED, Tile};
use crate::DType;
use crate::weights::panel::FLOAT_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a tile.
const TILE: usize = 6;

/// Rows `x`: (rows, cols) times a panel; `tile`: (rows, 16).
///
/// # Safety
/// AVX2, FMA and F16C are there; `panel` holds (cols, 16) values of a plain float `dtype`, `tile` sixteen
/// values for each row of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float_panel(
    dtype: DType,
    panel: &[u8],
    x: &[f32],
    cols: usize,
    tile: &mut [f32],
    wide: &mut Vec<f32>,
) {
    debug_assert!(panel.len() == cols * FLOAT_ROWS * dtype.block_bytes());
    debug_assert!(tile.len() * cols >= x.len() * FLOAT_ROWS);
    tile.fill(0.0);
    // SAFETY: the caller's promises, passed on.
    unsafe {
        match dtype {
            DType::F16 => stretches::<F16>(panel, x, cols, tile, wide),
            DType::BF16 => stretches::<Bf16>(panel, x, cols, tile, wide),
            _ => stretches::<F32>(panel, x, cols, tile, wide),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stretches<L: Load>(panel: &[u8], x: &[f32], cols: usize, tile: &mut [f32], wide: &mut Vec<f32>) {
    let rows = x.len() / cols;
    let size = panel.len() / cols;
    for span in float_tiles::stretches(cols) {
        let weights = panel[span.start * size..span.end * size].as_ptr();
        // SAFETY: `weights` holds the span's columns, as does `wide` once it has been filled from them.
        unsafe {
            if rows <= TILE || L::WIDE {
                all_rows::<L>(weights, x, cols, span, tile);
            } else {
                widen::<L>(weights, span.len(), wide);
                all_rows::<F32>(wide.as_ptr().cast(), x, cols, span, tile);
            }
        }
    }
}

/// How sixteen weights get into two registers.
trait Load {
    /// Whether they are f32 already.
    const WIDE: bool = false;
    /// Bytes they take.
    const BYTES: usize = 32;

    /// # Safety
    /// AVX2 and F16C are there; sixteen values of the format are readable at index `16 k`.
    unsafe fn load(panel: *const u8, k: usize) -> [__m256; 2];
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const WIDE: bool = true;
    const BYTES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(panel: *const u8, k: usize) -> [__m256; 2] {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe {
            let at = panel.add(64 * k).cast::<f32>();
            [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]
        }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(panel: *const u8, k: usize) -> [__m256; 2] {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let at = panel.add(32 * k).cast::<__m128i>();
            [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))]
        }
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(panel: *const u8, k: usize) -> [__m256; 2] {
        let widen = |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let at = panel.add(32 * k).cast::<__m128i>();
            [widen(_mm_loadu_si128(at)), widen(_mm_loadu_si128(at.add(1)))]
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen<L: Load>(panel: *const u8, cols: usize, wide: &mut Vec<f32>) {
    wide.resize(cols * FLOAT_ROWS, 0.0);
    for k in 0..cols {
        // SAFETY: `k < cols` on both sides.
        unsafe {
            let at = wide.as_mut_ptr().add(k * FLOAT_ROWS);
            let [low, high] = L::load(panel, k);
            _mm256_storeu_ps(at, low);
            _mm256_storeu_ps(at.add(8), high);
        }
    }
}

/// Adds the products along columns `span`, whose weights begin at `weights`, to the sums in `tile`.
#[target_feature(enable = "avx2,fma,f16c")]
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
                _ => rows::<L, 6>(weights, x, out),
            }
        }
    }
}

/// # Safety
/// AVX2, FMA and F16C are there; `M` rows are readable in `x`, `M` rows of sixteen writable at `out`, and
/// (len, 16) weights readable at `weights`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<L: Load, const M: usize>(weights: *const u8, x: Rows, out: *mut f32) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: `k < x.len` and `i < M` everywhere.
    unsafe {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = out.add(i * FLOAT_ROWS);
            *sum = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
        }
        for k in 0..x.len {
            if M <= STREAMED {
                _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(k * L::BYTES + AHEAD).cast());
            }
            let w = L::load(weights, k);
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*x.x.add(i * x.stride + k));
                sum[0] = _mm256_fmadd_ps(x, w[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(x, w[1], sum[1]);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            let at = out.add(i * FLOAT_ROWS);
            _mm256_storeu_ps(at, sum[0]);
            _mm256_storeu_ps(at.add(8), sum[1]);
        }
    }
}
