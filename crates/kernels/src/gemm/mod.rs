//! C = A B for f32 matrices of any strides: what training needs beside [`mod@crate::matmul`], whose right side is a weight
//! packed once and whose left side is whole rows.
//!
//! * [`View`]: a matrix seen through strides, so that a transpose costs nothing.
//! * [`Panels`]: the right side, packed sixteen columns at a time, in lines of 64 bytes.
//! * `block`: a block of C by one thread; the only place that computes. `tiles_x86` holds its vector tiles.
//!
//! Every element of C is one chain of fused multiply-adds along k (the scalar twin sums in f64), in the same order whatever the number of threads and the cut into tasks are, so results are the same to the bit.

mod block;
mod panels;
#[cfg(target_arch = "x86_64")]
mod tiles_x86;

pub(crate) use block::{Left, Target, block};
pub use panels::Panels;

use crate::isa::Isa;
use crate::pool::{Pool, SendPtr};

/// Columns of a panel: one AVX-512 register, two of AVX2.
pub(crate) const PANEL: usize = 16;

/// Rows of a task at most: C and A of a block stay in a second-level cache of a megabyte.
const BLOCK_ROWS: usize = 192;
/// Rows that tiles of any level divide well.
const ROW_UNIT: usize = 12;
/// Columns of a task at least, so that packing a transposed left side pays.
const BLOCK_COLS: usize = 128;
/// Tasks a thread should get, so that all finish at about the same time.
const TASKS_A_THREAD: usize = 4;

/// A matrix (rows, cols) in a slice: element (r, c) is at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// Rows of `cols` values that lie `stride` apart.
    ///
    /// # Panics
    /// If the last row reaches beyond `data` or rows overlap.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> View<'a> {
        assert!(cols <= stride, "rows of {cols} values cannot lie {stride} apart");
        assert!(
            rows == 0 || (rows - 1) * stride + cols <= data.len(),
            "{rows} rows reach beyond {} values",
            data.len()
        );
        View { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Rows without gaps.
    ///
    /// # Panics
    /// If `data` is no whole number of rows.
    pub fn new(data: &'a [f32], cols: usize) -> View<'a> {
        assert!(data.len().is_multiple_of(cols.max(1)), "{} values are no whole number of rows of {cols}", data.len());
        View::rows(data, data.len() / cols.max(1), cols, cols)
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> View<'a> {
        let View { data, rows, cols, row_stride, col_stride } = self;
        View { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Without the first rows.
    pub(crate) fn skip(self, rows: usize) -> View<'a> {
        let rows = rows.min(self.rows);
        let data = &self.data[(rows * self.row_stride).min(self.data.len())..];
        View { data, rows: self.rows - rows, ..self }
    }

    pub(crate) fn left(&self, first: usize) -> Left {
        let at = self.data[(first * self.row_stride).min(self.data.len())..].as_ptr();
        Left { at, row_stride: self.row_stride, col_stride: self.col_stride }
    }
}

/// What is done with a finished piece of a row of C: `f(row, first column, values)`.
pub type Finish<'a> = dyn Fn(usize, usize, &mut [f32]) + Sync + 'a;

/// C = A B, or C + A B.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Add to what C holds.
    pub accumulate: bool,
    /// Called once for each row of each task while it is in the cache: bias, activation, residual.
    pub finish: Option<&'a Finish<'a>>,
}

/// C = A B: `a` (m, k), `b` (k, n), `c` (m, n) row by row.
///
/// # Panics
/// If the shapes disagree.
pub fn gemm(pool: &Pool, isa: Isa, a: View, b: &Panels, c: &mut [f32], options: Options) {
    let (m, k, n) = (a.rows, a.cols, b.cols());
    assert_eq!(k, b.rows(), "columns of the left side against rows of the right");
    assert_eq!(c.len(), m * n, "values of the product against {m} x {n}");
    if c.is_empty() {
        return;
    }
    let cut = Cut::new(m, n, pool.threads());
    let out = SendPtr(c.as_mut_ptr());
    pool.run(cut.tasks(), &|task| {
        let (rows, cols) = cut.task(task);
        // SAFETY: tasks are disjoint rectangles of C, which stays borrowed until `run` returns; the views' and panels'
        // bounds were checked when they were made, and the shapes above.
        unsafe {
            let target = Target { at: out.get().add(rows.start * n + cols.start), stride: n };
            let panels = b.from(cols.start / PANEL);
            block(isa, a.left(rows.start), panels, (rows.len(), k, cols.len()), target, options.accumulate);
            if let Some(finish) = options.finish {
                for row in rows {
                    let at = out.get().add(row * n + cols.start);
                    finish(row, cols.start, std::slice::from_raw_parts_mut(at, cols.len()));
                }
            }
        }
    });
}

/// How C is cut into tasks.
struct Cut {
    m: usize,
    n: usize,
    rows: usize,
    cols: usize,
}

impl Cut {
    fn new(m: usize, n: usize, threads: usize) -> Cut {
        let wanted = if threads == 1 { 1 } else { threads * TASKS_A_THREAD };
        let blocks = m.div_ceil(BLOCK_ROWS).max(wanted.min(m.div_ceil(4 * ROW_UNIT)));
        let rows = m.div_ceil(blocks).next_multiple_of(ROW_UNIT);
        let groups = wanted.div_ceil(m.div_ceil(rows)).min(n.div_ceil(BLOCK_COLS)).max(1);
        Cut { m, n, rows, cols: n.div_ceil(groups).next_multiple_of(2 * PANEL) }
    }

    fn tasks(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.cols)
    }

    fn task(&self, task: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let groups = self.n.div_ceil(self.cols);
        let (row, col) = (task / groups * self.rows, task % groups * self.cols);
        (row..self.m.min(row + self.rows), col..self.n.min(col + self.cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn exact(a: View, b: View) -> Vec<f64> {
        let at = |v: &View, r: usize, c: usize| f64::from(v.data[r * v.row_stride + c * v.col_stride]);
        let one = |r, c| (0..a.cols).map(|k| at(&a, r, k) * at(&b, k, c)).sum();
        (0..a.rows).flat_map(|r| (0..b.cols).map(move |c| (r, c))).map(|(r, c)| one(r, c)).collect()
    }

    #[test]
    fn products_of_any_strides_agree_with_f64_on_every_level_and_any_threads() {
        for isa in Isa::available() {
            for (m, k, n) in [(1, 1, 1), (13, 7, 16), (25, 300, 33), (50, 64, 257), (257, 40, 72), (3, 520, 47)] {
                let (left, right) = (noise(m * k, 1), noise(k * n, 2));
                for (a, b) in [
                    (View::new(&left, k), View::new(&right, n)),
                    (View::new(&left, m).transposed(), View::new(&right, k).transposed()),
                ] {
                    let exact = exact(a, b);
                    let mut all = Vec::new();
                    for threads in [1, 2, 3] {
                        let pool = Pool::new(threads);
                        let mut panels = Panels::new();
                        panels.pack(&pool, b);
                        let mut c = vec![1.0; m * n];
                        gemm(&pool, isa, a, &panels, &mut c, Options::default());
                        for (c, e) in c.iter().zip(&exact) {
                            assert!((f64::from(*c) - e).abs() < 1e-4, "{isa:?} {m}x{k}x{n}: {c} not {e}");
                        }
                        all.push(c);
                    }
                    assert!(all[0] == all[1] && all[0] == all[2], "{isa:?} {m}x{k}x{n}: threads change bits");
                }
            }
        }
    }

    #[test]
    fn vector_levels_agree_to_the_bit() {
        let (left, right) = (noise(100 * 333, 3), noise(333 * 90, 4));
        let pool = Pool::new(1);
        let mut panels = Panels::new();
        panels.pack(&pool, View::new(&right, 90));
        let product = |isa| {
            let mut c = vec![0.0; 100 * 90];
            gemm(&pool, isa, View::new(&left, 333), &panels, &mut c, Options::default());
            c
        };
        let all: Vec<_> = Isa::available().into_iter().filter(|i| *i >= Isa::Avx2).map(product).collect();
        assert!(all.windows(2).all(|p| p[0] == p[1]));
    }

    #[test]
    fn accumulating_adds_and_finish_sees_every_value_once() {
        let pool = Pool::new(2);
        let (a, b) = (noise(60 * 20, 5), noise(20 * 300, 6));
        let mut panels = Panels::new();
        panels.pack(&pool, View::new(&b, 300));
        let mut c = vec![0.0; 60 * 300];
        let finish = |row: usize, col: usize, values: &mut [f32]| {
            for (i, v) in values.iter_mut().enumerate() {
                *v += (1000 * row + col + i) as f32;
            }
        };
        let options = Options { accumulate: false, finish: Some(&finish) };
        gemm(&pool, Isa::best(), View::new(&a, 20), &panels, &mut c, options);
        let exact = exact(View::new(&a, 20), View::new(&b, 300));
        for (i, (c, e)) in c.iter().zip(&exact).enumerate() {
            let added = (1000 * (i / 300) + i % 300) as f64;
            assert!((f64::from(*c) - e - added).abs() < 1e-2, "{i}: {c}");
        }
        let mut twice = vec![0.5; 60 * 300];
        let add = Options { accumulate: true, finish: None };
        gemm(&pool, Isa::best(), View::new(&a, 20), &panels, &mut twice, add);
        for (c, e) in twice.iter().zip(&exact) {
            assert!((f64::from(*c) - e - 0.5).abs() < 1e-4);
        }
    }
}
