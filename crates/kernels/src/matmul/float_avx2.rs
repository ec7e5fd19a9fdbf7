//! A panel of plain floats (k, 16) times some rows of f32 activations, with AVX2 and FMA.
//!
//! Tiles of six rows by sixteen outputs: twelve sums, two weight vectors and a broadcast fill the sixteen
//! registers, and twelve independent chains keep both multiply-add units busy. An output is one chain along
//! k whatever the tile, so m does not change its bits. F16 and BF16 widen as they are loaded for few rows;
//! for many the panel is widened once into scratch.

use crate::DType;
use crate::weights::panel::FLOAT_ROWS;
use std::arch::x86_64::*;

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
    let rows = x.len() / cols;
    debug_assert!(panel.len() == cols * FLOAT_ROWS * dtype.block_bytes());
    debug_assert!(tile.len() >= rows * FLOAT_ROWS);
    // SAFETY: the caller's promises, passed on; `wide` has been filled with the same (cols, 16) values.
    unsafe {
        match dtype {
            DType::F16 if rows <= TILE => all_rows::<F16>(panel.as_ptr(), x, cols, tile),
            DType::BF16 if rows <= TILE => all_rows::<Bf16>(panel.as_ptr(), x, cols, tile),
            DType::F16 => {
                widen::<F16>(panel.as_ptr(), cols, wide);
                all_rows::<F32>(wide.as_ptr().cast(), x, cols, tile);
            }
            DType::BF16 => {
                widen::<Bf16>(panel.as_ptr(), cols, wide);
                all_rows::<F32>(wide.as_ptr().cast(), x, cols, tile);
            }
            _ => all_rows::<F32>(panel.as_ptr(), x, cols, tile),
        }
    }
}

/// How sixteen weights get into two registers.
trait Load {
    /// # Safety
    /// AVX2 and F16C are there; sixteen values of the format are readable at index `16 k`.
    unsafe fn load(panel: *const u8, k: usize) -> [__m256; 2];
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all_rows<L: Load>(panel: *const u8, x: &[f32], cols: usize, tile: &mut [f32]) {
    let tiles = x.chunks(TILE * cols).zip(tile.chunks_mut(TILE * FLOAT_ROWS));
    for (x, tile) in tiles {
        let (x, out) = (x.as_ptr(), tile.as_mut_ptr());
        // SAFETY: `x` and `tile` begin with as many whole rows as the constant says.
        unsafe {
            match tile.len() / FLOAT_ROWS {
                1 => rows::<L, 1>(panel, x, cols, out),
                2 => rows::<L, 2>(panel, x, cols, out),
                3 => rows::<L, 3>(panel, x, cols, out),
                4 => rows::<L, 4>(panel, x, cols, out),
                5 => rows::<L, 5>(panel, x, cols, out),
                _ => rows::<L, 6>(panel, x, cols, out),
            }
        }
    }
}

/// # Safety
/// `M` rows of `cols` values are readable at `x`, and `M` rows of sixteen writable at `out`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<L: Load, const M: usize>(panel: *const u8, x: *const f32, cols: usize, out: *mut f32) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: `k < cols` and `i < M` everywhere.
    unsafe {
        for k in 0..cols {
            let w = L::load(panel, k);
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*x.add(i * cols + k));
                sum[0] = _mm256_fmadd_ps(x, w[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(x, w[1], sum[1]);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.add(i * FLOAT_ROWS), sum[0]);
            _mm256_storeu_ps(out.add(i * FLOAT_ROWS + 8), sum[1]);
        }
    }
}
