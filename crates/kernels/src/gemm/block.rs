//! A block of C by one thread.

use super::PANEL;
use crate::isa::Isa;
use std::cell::RefCell;

/// Rows of k that are taken at a time: two panels of them fill half of a first-level cache of 48 KiB.
const STRETCH: usize = 192;
/// Rows of a vector tile at most, and so of the packed left side.
pub(super) const TILE_ROWS: usize = 12;

/// The left side: element (i, k) is at `at + i * row_stride + k * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) at: *const f32,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// Where C is: rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) at: *mut f32,
    pub(crate) stride: usize,
}

thread_local! {
    /// A transposed left side, packed: (tiles, stretch, rows of a tile).
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// C = A B or C + A B for (m, k, n).
///
/// # Safety
/// `a` is readable for (m, k), `panels` holds the panels of (k, n), and C is writable for (m, n) by nobody else.
pub(crate) unsafe fn block(
    isa: Isa,
    a: Left,
    panels: &[f32],
    (m, k, n): (usize, usize, usize),
    c: Target,
    accumulate: bool,
) {
    if k == 0 && !accumulate {
        for i in 0..m {
            // SAFETY: C is writable for (m, n).
            unsafe { std::slice::from_raw_parts_mut(c.at.add(i * c.stride), n) }.fill(0.0);
        }
    }
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: the caller's promises, passed on; AVX2 and FMA were detected.
        return unsafe { vector(isa, a, panels, (m, k, n), c, accumulate) };
    }
    let _ = isa;
    // SAFETY: the caller's promises, passed on.
    unsafe { scalar(a, panels, (m, k, n), c, accumulate) };
}

/// # Safety
/// As [`block`], and AVX2 and FMA are there.
#[cfg(target_arch = "x86_64")]
unsafe fn vector(isa: Isa, a: Left, panels: &[f32], (m, k, n): (usize, usize, usize), c: Target, accumulate: bool) {
    use super::tiles_x86::{self, Rows, Tile};
    let wide = isa.runs_avx512();
    let (most, width) = if wide { (TILE_ROWS, 2 * PANEL) } else { (TILE_ROWS / 2, PANEL) };
    let tiles = m.div_ceil(most);
    // Tiles of about equal height: two of seven rows keep more chains busy than one of twelve and one of two.
    let height = |first: usize, tile: usize| (m - first).div_ceil(tiles - tile);
    PACKED.with_borrow_mut(|packed| {
        for from in (0..k).step_by(STRETCH) {
            let len = STRETCH.min(k - from);
            let fresh = from == 0 && !accumulate;
            if a.col_stride != 1 {
                packed.resize(tiles * len * TILE_ROWS, 0.0);
                // SAFETY: the stretch lies within (m, k).
                unsafe { pack(Left { at: a.at.add(from * a.col_stride), ..a }, m, len, &height, packed) };
            }
            for col in (0..n).step_by(width) {
                let count = width.min(n - col);
                let b = panels[col * k + from * PANEL..].as_ptr();
                let mut first = 0;
                for tile in 0..tiles {
                    let rows = height(first, tile);
                    // SAFETY: rows `first ..` of A, the panels at `col` and the rectangle of C are within (m, k, n).
                    unsafe {
                        let a = if a.col_stride == 1 {
                            Rows { at: a.at.add(first * a.row_stride + from), stride: a.row_stride, packed: false }
                        } else {
                            Rows { at: packed.as_ptr().add(tile * len * TILE_ROWS), stride: 1, packed: true }
                        };
                        let at = Target { at: c.at.add(first * c.stride + col), stride: c.stride };
                        let tile = Tile { a, rows, b, next: k * PANEL, len, count, fresh };
                        tiles_x86::run(wide, tile, at);
                    }
                    first += rows;
                }
            }
        }
    });
}

/// # Safety
/// `a` is readable for (m, len) and `packed` holds that many rows of tiles.
#[cfg(target_arch = "x86_64")]
unsafe fn pack(a: Left, m: usize, len: usize, height: &dyn Fn(usize, usize) -> usize, packed: &mut [f32]) {
    let mut first = 0;
    for (tile, out) in packed.chunks_exact_mut(len * TILE_ROWS).enumerate() {
        if first == m {
            break;
        }
        let rows = height(first, tile);
        for (k, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
            // SAFETY: `first + rows <= m` and `k < len`.
            unsafe {
                let at = a.at.add(first * a.row_stride + k * a.col_stride);
                if a.row_stride == 1 {
                    out[..rows].copy_from_slice(std::slice::from_raw_parts(at, rows));
                } else {
                    out[..rows].iter_mut().enumerate().for_each(|(i, out)| *out = *at.add(i * a.row_stride));
                }
            }
        }
        first += rows;
    }
}

/// # Safety
/// As [`block`].
unsafe fn scalar(a: Left, panels: &[f32], (m, k, n): (usize, usize, usize), c: Target, accumulate: bool) {
    for i in 0..m {
        // SAFETY: C is writable for (m, n).
        let row = unsafe { std::slice::from_raw_parts_mut(c.at.add(i * c.stride), n) };
        for (panel, out) in row.chunks_mut(PANEL).enumerate() {
            let mut sums = [0f64; PANEL];
            if accumulate {
                sums.iter_mut().zip(&*out).for_each(|(s, o)| *s = f64::from(*o));
            }
            for (l, b) in panels[panel * k * PANEL..][..k * PANEL].as_chunks::<PANEL>().0.iter().enumerate() {
                // SAFETY: A is readable for (m, k).
                let x = f64::from(unsafe { *a.at.add(i * a.row_stride + l * a.col_stride) });
                sums.iter_mut().zip(b).for_each(|(s, b)| *s += x * f64::from(*b));
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
        }
    }
}
