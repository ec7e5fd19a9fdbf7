//! The right side of a product, packed.

use super::{PANEL, View};
use crate::pool::Pool;

/// Sixteen values in one line of the cache, which a vector load of any width then never straddles.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; PANEL]);

/// A matrix (k, n) in panels of sixteen columns: panel `p` holds (k, 16), columns beyond n are zeros. Memory is kept
/// when another matrix is packed into it.
#[derive(Default)]
pub struct Panels {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

impl Panels {
    /// Nothing packed yet.
    pub fn new() -> Panels {
        Panels::default()
    }

    /// A matrix packed once, such as a weight that stays.
    pub fn of(pool: &Pool, b: View) -> Panels {
        let mut panels = Panels::new();
        panels.pack(pool, b);
        panels
    }

    /// Takes `b` (k, n). The weight of a linear layer, stored (outputs, inputs), is packed as its transpose for y = x Wᵀ.
    pub fn pack(&mut self, pool: &Pool, b: View) {
        self.resize(b.rows, b.cols);
        let k = b.rows;
        pool.chunks(&mut self.lines, k.max(1), |panel, lines| pack_panel(b, panel * PANEL, 1.0, lines));
    }

    /// [`Panels::pack`] by the calling thread, each value times `scale`.
    pub(crate) fn pack_scaled(&mut self, b: View, scale: f32) {
        self.resize(b.rows, b.cols);
        for (panel, lines) in self.lines.chunks_mut(b.rows.max(1)).enumerate() {
            pack_panel(b, panel * PANEL, scale, lines);
        }
    }

    fn resize(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        self.lines.resize(cols.div_ceil(PANEL) * rows, Line::default());
    }

    /// k.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// n.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// The values of the panels from number `panel` on.
    pub(crate) fn from(&self, panel: usize) -> &[f32] {
        bytemuck::cast_slice(&self.lines[panel * self.rows..])
    }
}

/// Columns `first ..` of `b` into one panel.
fn pack_panel(b: View, first: usize, scale: f32, lines: &mut [Line]) {
    let count = PANEL.min(b.cols - first);
    if b.col_stride == 1 {
        for (k, line) in lines.iter_mut().enumerate() {
            let row = &b.data[k * b.row_stride + first..][..count];
            line.0 = [0.0; PANEL];
            for (to, from) in line.0.iter_mut().zip(row) {
                *to = from * scale;
            }
        }
        return;
    }
    if b.row_stride == 1 && count == PANEL {
        let columns: [&[f32]; PANEL] = std::array::from_fn(|c| &b.data[(first + c) * b.col_stride..][..lines.len()]);
        // Sixteen by sixteen at a time: reads and writes then both stay within a few lines.
        for (from, lines) in (0..columns[0].len()).step_by(PANEL).zip(lines.chunks_mut(PANEL)) {
            let pieces = columns.map(|column| &column[from..from + lines.len()]);
            for (c, piece) in pieces.into_iter().enumerate() {
                for (line, value) in lines.iter_mut().zip(piece) {
                    line.0[c] = value * scale;
                }
            }
        }
        return;
    }
    for (k, line) in lines.iter_mut().enumerate() {
        line.0 = [0.0; PANEL];
        for (c, to) in line.0[..count].iter_mut().enumerate() {
            *to = b.data[k * b.row_stride + (first + c) * b.col_stride] * scale;
        }
    }
}
