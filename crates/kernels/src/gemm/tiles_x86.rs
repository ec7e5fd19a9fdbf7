//! Vector tiles: up to twelve rows by two panels with AVX-512 (24 sums, two weight vectors), six rows by one panel with
//! AVX2 (twelve sums, two weight vectors and a broadcast). So many independent chains keep two multiply-add units busy.

use super::PANEL;
use super::block::{TILE_ROWS, Target};
use std::arch::x86_64::*;

/// Rows of the left side: `stride` apart, or packed twelve (whatever their number) at a time.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) at: *const f32,
    pub(super) stride: usize,
    pub(super) packed: bool,
}

/// One tile's work.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) a: Rows,
    /// Rows, at least one.
    pub(super) rows: usize,
    /// The first panel at the stretch's beginning, and how far the next one is.
    pub(super) b: *const f32,
    pub(super) next: usize,
    /// Length of the stretch.
    pub(super) len: usize,
    /// Columns of C that exist.
    pub(super) count: usize,
    /// C is set, not added to.
    pub(super) fresh: bool,
}

/// Runs a tile; where C is narrower than the tile, through a full one on the stack.
///
/// # Safety
/// The instruction set is there (AVX-512 if `wide`); A, B and C reach as far as the tile says, B for the panels that
/// hold `count` columns.
pub(super) unsafe fn run(wide: bool, tile: Tile, c: Target) {
    let full = if tile.count > PANEL { 2 * PANEL } else { PANEL };
    if tile.count == full {
        // SAFETY: the caller's promises.
        return unsafe { dispatch(wide, tile, c) };
    }
    let mut room = [0f32; TILE_ROWS * 2 * PANEL];
    let inner = Target { at: room.as_mut_ptr(), stride: full };
    // SAFETY: rows of `count` values in C, of `full` in the room, which holds twelve.
    unsafe {
        if !tile.fresh {
            for i in 0..tile.rows {
                inner.at.add(i * full).copy_from_nonoverlapping(c.at.add(i * c.stride), tile.count);
            }
        }
        dispatch(wide, tile, inner);
        for i in 0..tile.rows {
            c.at.add(i * c.stride).copy_from_nonoverlapping(inner.at.add(i * full), tile.count);
        }
    }
}

/// Calls the kernel for the tile's number of rows.
macro_rules! by_rows {
    ($kernel:ident, $tile:expr, $c:expr, $panels:literal, $packed:literal, $($m:literal)*) => {
        match $tile.rows {
            $($m => $kernel::<$m, $panels, $packed>($tile, $c),)*
            _ => debug_assert!(false, "rows of a tile"),
        }
    };
}

unsafe fn dispatch(wide: bool, tile: Tile, c: Target) {
    // SAFETY: the caller's promises.
    unsafe {
        match (wide, tile.count > PANEL, tile.a.packed) {
            (true, true, false) => by_rows!(avx512, tile, c, 2, false, 1 2 3 4 5 6 7 8 9 10 11 12),
            (true, true, true) => by_rows!(avx512, tile, c, 2, true, 1 2 3 4 5 6 7 8 9 10 11 12),
            (true, false, false) => by_rows!(avx512, tile, c, 1, false, 1 2 3 4 5 6 7 8 9 10 11 12),
            (true, false, true) => by_rows!(avx512, tile, c, 1, true, 1 2 3 4 5 6 7 8 9 10 11 12),
            (false, _, false) => by_rows!(avx2, tile, c, 1, false, 1 2 3 4 5 6),
            (false, _, true) => by_rows!(avx2, tile, c, 1, true, 1 2 3 4 5 6),
        }
    }
}

/// # Safety
/// AVX-512 F is there; as [`run`] for `M` rows and `P` whole panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512<const M: usize, const P: usize, const PACKED: bool>(tile: Tile, c: Target) {
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: `k < len`, `i < M` and `p < P` everywhere.
    unsafe {
        if !tile.fresh {
            for (i, row) in sums.iter_mut().enumerate() {
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(c.at.add(i * c.stride + p * PANEL));
                }
            }
        }
        for k in 0..tile.len {
            let b: [__m512; P] = std::array::from_fn(|p| _mm512_loadu_ps(tile.b.add(p * tile.next + k * PANEL)));
            for (i, row) in sums.iter_mut().enumerate() {
                let at = if PACKED { k * TILE_ROWS + i } else { i * tile.a.stride + k };
                let x = _mm512_set1_ps(*tile.a.at.add(at));
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum = _mm512_fmadd_ps(x, b, *sum);
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (p, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(c.at.add(i * c.stride + p * PANEL), *sum);
            }
        }
    }
}

/// # Safety
/// AVX2 and FMA are there; as [`run`] for `M` rows and one whole panel (`P` is 1).
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize, const P: usize, const PACKED: bool>(tile: Tile, c: Target) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: `k < len` and `i < M` everywhere.
    unsafe {
        if !tile.fresh {
            for (i, row) in sums.iter_mut().enumerate() {
                let at = c.at.add(i * c.stride);
                *row = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
            }
        }
        for k in 0..tile.len {
            let at = tile.b.add(k * PANEL);
            let b = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
            for (i, row) in sums.iter_mut().enumerate() {
                let at = if PACKED { k * TILE_ROWS + i } else { i * tile.a.stride + k };
                let x = _mm256_broadcast_ss(&*tile.a.at.add(at));
                row[0] = _mm256_fmadd_ps(x, b[0], row[0]);
                row[1] = _mm256_fmadd_ps(x, b[1], row[1]);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            let at = c.at.add(i * c.stride);
            _mm256_storeu_ps(at, row[0]);
            _mm256_storeu_ps(at.add(8), row[1]);
        }
    }
}
