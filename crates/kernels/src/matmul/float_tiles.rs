//! How a panel of floats is cut for rows of activations: the same for every vector level.
//!
//! Stretches of the panel that fit L1 are taken one after another, each past all rows, the sums waiting in the tile
//! meanwhile. An output is one chain along k however it is cut, so the cut changes no bit.

use crate::weights::panel::FLOAT_ROWS;
use std::ops::Range;

/// Columns of a stretch: sixteen outputs of them take 16 KiB, a third or half of L1.
const STRETCH: usize = 256;

/// Up to so many rows a tile is bound by memory and asks for weights ahead of their use.
pub(super) const STREAMED: usize = 3;

/// How far ahead, in bytes: panels of a task follow each other in memory.
pub(super) const AHEAD: usize = 2048;

/// The columns of each stretch.
#[inline]
pub(super) fn stretches(cols: usize) -> impl Iterator<Item = Range<usize>> {
    (0..cols).step_by(STRETCH).map(move |first| first..cols.min(first + STRETCH))
}

/// Some rows of a stretch and where their sums are.
pub(super) struct Tile {
    /// Rows.
    pub(super) height: usize,
    pub(super) x: Rows,
    /// (height, 16).
    pub(super) out: *mut f32,
}

/// `len` values of each of some rows, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) x: *const f32,
    pub(super) stride: usize,
    pub(super) len: usize,
}

/// Columns `span` of rows `x`: (rows, cols), in tiles of at most `most` rows and about equal height: two of four rows
/// keep more chains busy than one of six and one of two. `sums` is (rows, 16).
#[inline]
pub(super) fn tiles<'a>(
    x: &'a [f32],
    cols: usize,
    span: Range<usize>,
    sums: &'a mut [f32],
    most: usize,
) -> impl Iterator<Item = Tile> + use<'a> {
    let count = x.len() / cols;
    let mut row = 0;
    std::iter::from_fn(move || {
        let left = count - row;
        if left == 0 {
            return None;
        }
        let height = left.div_ceil(left.div_ceil(most));
        let rows = Rows { x: x[row * cols + span.start..].as_ptr(), stride: cols, len: span.len() };
        let out = sums[row * FLOAT_ROWS..][..height * FLOAT_ROWS].as_mut_ptr();
        row += height;
        Some(Tile { height, x: rows, out })
    })
}
