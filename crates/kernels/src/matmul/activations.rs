//! m rows of activations, and the int8 copy that quantised weights meet.
//!
//! The copy is made eagerly, in the same pass over the input that stores the floats: a block of 32 values
//! becomes int8 with one f32 scale (`max |x| / 127`), and the sums of its two halves, by which a weight's
//! minimum or offset is multiplied. Which of the two copies will be used cannot be known from the rows, so
//! [`Activations::set`] makes both; a caller who knows the matrices says so with [`Activations::set_for`].
//! Rows that only pass through a norm on their way in ([`Activations::set_normed`]) are never written as a whole:
//! each is normed, and its copies are made, while it lies in the first-level cache.
//!
//! Layout: block first, then row, `(k / 32, m, 32)`, because a kernel holds one block of weights in
//! registers and walks down the rows.

use super::matrix::Matrix;
use crate::DType;
use crate::isa::Isa;
use crate::ops;
use crate::pool::{Pool, SendPtr};
use crate::weights::SUB;
use std::cell::RefCell;

/// Values (m * k) below which quantising is not worth waking another thread.
const PARALLEL: usize = 16 * 1024;

/// Largest magnitude that still counts as zero: its inverse times 127 would overflow.
pub(super) const TINY: f32 = 1e-36;

/// Which copies of its rows [`Activations`] has to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The floats, for F32, F16 and BF16 weights.
    pub floats: bool,
    /// Int8 blocks, for quantised weights.
    pub blocks: bool,
}

impl Needs {
    /// Both copies.
    pub const ALL: Needs = Needs { floats: true, blocks: true };

    /// What the products with these matrices need.
    pub fn of(matrices: &[&Matrix]) -> Needs {
        let floats = matrices.iter().any(|w| w.dtype().is_float());
        let blocks = matrices.iter().any(|w| !w.dtype().is_float());
        Needs { floats, blocks }
    }
}

/// m rows of k activations. Buffers are reused: nothing is allocated once the largest size has been seen.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    has: Option<Needs>,
    floats: Vec<f32>,
    q: Vec<i8>,
    scale_sum: Vec<[f32; 2]>,
    halves: Vec<[f32; 2]>,
    totals: Vec<i32>,
}

/// The int8 copy as kernels see it; block `b` of row `i` is number `b * rows + i`.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    /// m.
    pub(super) rows: usize,
    /// 32 values a block.
    pub(super) q: &'a [i8],
    /// Scale, and scale times the sum of the 32 integers.
    pub(super) scale_sum: &'a [[f32; 2]],
    /// Scale times the sum of the first and of the last 16 integers.
    pub(super) halves: &'a [[f32; 2]],
    /// Sum of the 32 integers: what kernels that make signed weights unsigned have to take off again.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) totals: &'a [i32],
}

/// A block's numbers beside its integers.
pub(super) struct BlockSums {
    pub(super) scale: f32,
    /// Sums of the first and of the last 16 integers.
    pub(super) halves: [i32; 2],
}

impl Activations {
    /// No rows yet.
    pub fn new() -> Activations {
        Activations::default()
    }

    /// Takes the rows `x`: (m, cols), keeping whatever any weight could need.
    ///
    /// A level of `isa` that the processor lacks is lowered to one it has. NaN and infinity make every
    /// output of their row NaN on the quantised path, where int8 could not carry them.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn set(&mut self, pool: &Pool, x: &[f32], cols: usize, isa: Isa) {
        self.set_for(pool, x, cols, isa, Needs::ALL);
    }

    /// As [`Activations::set`], keeping only what `needs` says.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn set_for(&mut self, pool: &Pool, x: &[f32], cols: usize, isa: Isa, needs: Needs) {
        let has = self.resize(x.len(), cols, needs);
        let sink = self.sink();
        each_row(pool, x, cols, |i, row| {
            if has.floats {
                // SAFETY: each row is filled by one task.
                unsafe { sink.floats_of(i, cols) }.copy_from_slice(row);
            }
            if has.blocks {
                // SAFETY: as above.
                unsafe { sink.quantize_row(i, row, isa) };
            }
        });
    }

    /// Takes `rms_norm(x)` for rows `x`: (m, weight.len()), keeping only what `needs` says: the same bits as
    /// [`ops::rms_norm`] followed by [`Activations::set_for`].
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn set_normed(&mut self, pool: &Pool, x: &[f32], (weight, eps): (&[f32], f32), isa: Isa, needs: Needs) {
        let cols = weight.len();
        let has = self.resize(x.len(), cols, needs);
        let sink = self.sink();
        each_row(pool, x, cols, |i, row| {
            if has.floats {
                // SAFETY: each row is filled by one task.
                let normed = unsafe { sink.floats_of(i, cols) };
                ops::rms_norm_rows(isa, row, weight, eps, normed);
                if has.blocks {
                    // SAFETY: as above.
                    unsafe { sink.quantize_row(i, normed, isa) };
                }
                return;
            }
            if !has.blocks {
                return;
            }
            NORMED.with_borrow_mut(|normed| {
                normed.resize(cols, 0.0);
                ops::rms_norm_rows(isa, row, weight, eps, normed);
                // SAFETY: as above.
                unsafe { sink.quantize_row(i, normed, isa) };
            });
        });
    }

    /// Makes room for the copies of `len` values; which of them are made.
    fn resize(&mut self, len: usize, cols: usize, needs: Needs) -> Needs {
        assert!(len.is_multiple_of(cols.max(1)), "{len} activations are no whole number of rows of {cols}");
        self.rows = len / cols.max(1);
        self.cols = cols;
        let needs = Needs { blocks: needs.blocks && cols.is_multiple_of(SUB), ..needs };
        self.has = Some(needs);
        let blocks = if needs.blocks { len / SUB } else { 0 };
        self.floats.resize(if needs.floats { len } else { 0 }, 0.0);
        self.q.resize(blocks * SUB, 0);
        self.scale_sum.resize(blocks, [0.0; 2]);
        self.halves.resize(blocks, [0.0; 2]);
        self.totals.resize(blocks, 0);
        needs
    }

    /// Where rows write their copies; valid until a buffer is resized.
    fn sink(&mut self) -> Sink {
        Sink {
            rows: self.rows,
            floats: SendPtr(self.floats.as_mut_ptr()),
            q: SendPtr(self.q.as_mut_ptr()),
            scale_sum: SendPtr(self.scale_sum.as_mut_ptr()),
            halves: SendPtr(self.halves.as_mut_ptr()),
            totals: SendPtr(self.totals.as_mut_ptr()),
        }
    }

    /// Rows (m).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (k).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether the copy that such a weight meets is here.
    pub(super) fn serves(&self, dtype: DType) -> bool {
        self.has.is_none_or(|has| if dtype.is_float() { has.floats } else { has.blocks })
    }

    /// The float copy: (m, k).
    pub(super) fn floats(&self) -> &[f32] {
        &self.floats
    }

    /// The int8 copy.
    pub(super) fn blocks(&self) -> Blocks<'_> {
        let totals = &self.totals;
        Blocks { rows: self.rows, q: &self.q, scale_sum: &self.scale_sum, halves: &self.halves, totals }
    }
}

thread_local! {
    /// A row between its norm and its int8 copy, where nobody wants it as floats.
    static NORMED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f(row number, row)` for each row, on all threads where there is enough to do.
fn each_row(pool: &Pool, x: &[f32], cols: usize, f: impl Fn(usize, &[f32]) + Sync) {
    let rows = x.len() / cols.max(1);
    let one = |i: usize| f(i, &x[i * cols..][..cols]);
    if x.len() < PARALLEL {
        return (0..rows).for_each(one);
    }
    let chunk = rows.div_ceil(4 * pool.threads()).max(1);
    pool.run(rows.div_ceil(chunk), &|c| {
        (c * chunk..rows.min((c + 1) * chunk)).for_each(one);
    });
}

/// Where rows write their copies; each row has its own places, spread over the buffers.
struct Sink {
    rows: usize,
    floats: SendPtr<f32>,
    q: SendPtr<i8>,
    scale_sum: SendPtr<[f32; 2]>,
    halves: SendPtr<[f32; 2]>,
    totals: SendPtr<i32>,
}

impl Sink {
    /// # Safety
    /// `floats` holds `rows` rows of `cols` values; `i < rows`, and no other thread writes row `i`.
    #[allow(clippy::mut_from_ref)]
    unsafe fn floats_of(&self, i: usize, cols: usize) -> &mut [f32] {
        // SAFETY: the row is in the buffer and nobody else's, see above.
        unsafe { std::slice::from_raw_parts_mut(self.floats.get().add(i * cols), cols) }
    }

    /// # Safety
    /// The buffers hold a block for each of `rows` rows and each 32 of `row.len()` values; `i < rows`, and
    /// no other thread writes row `i`.
    unsafe fn quantize_row(&self, i: usize, row: &[f32], isa: Isa) {
        for (b, values) in row.as_chunks::<SUB>().0.iter().enumerate() {
            let at = b * self.rows + i;
            // SAFETY: `at` is a block of row `i`, see above; a block has 32 integers.
            let q = unsafe { &mut *self.q.get().add(at * SUB).cast::<[i8; SUB]>() };
            let BlockSums { scale, halves } = quantize_block(values, q, isa);
            let total = halves[0] + halves[1];
            let halves = halves.map(|sum| sum as f32);
            // SAFETY: as above.
            unsafe {
                self.totals.get().add(at).write(total);
                self.scale_sum.get().add(at).write([scale, scale * (halves[0] + halves[1])]);
                self.halves.get().add(at).write(halves.map(|sum| scale * sum));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn quantize_block(values: &[f32; SUB], q: &mut [i8; SUB], isa: Isa) -> BlockSums {
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2 and FMA.
        unsafe { super::quantize_avx2::quantize_block(values, q) }
    } else {
        super::scalar::quantize_block(values, q)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn quantize_block(values: &[f32; SUB], q: &mut [i8; SUB], _isa: Isa) -> BlockSums {
    super::scalar::quantize_block(values, q)
}
