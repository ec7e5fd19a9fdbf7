//! m rows of activations, and the int8 copy that quantised weights meet.
//!
//! The copy is made eagerly, in the same pass over the input that stores the floats: a block of 32 values
//! becomes int8 with one f32 scale (`max |x| / 127`), and the sums of its two halves, by which a weight's
//! minimum or offset is multiplied. Which of the two copies will be used cannot be known from the rows, so
//! [`Activations::set`] makes both; a caller who knows the matrices says so with [`Activations::set_for`].
//!
//! Layout: block first, then row, `(k / 32, m, 32)`, because a kernel holds one block of weights in
//! registers and walks down the rows.

use super::matrix::Matrix;
use crate::DType;
use crate::isa::Isa;
use crate::pool::{Pool, SendPtr};
use crate::weights::SUB;

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
        assert!(x.len().is_multiple_of(cols.max(1)), "{} activations are no whole number of rows of {cols}", x.len());
        self.rows = x.len() / cols.max(1);
        self.cols = cols;
        let needs = Needs { blocks: needs.blocks && cols.is_multiple_of(SUB), ..needs };
        self.has = Some(needs);
        let blocks = if needs.blocks { x.len() / SUB } else { 0 };
        self.floats.resize(if needs.floats { x.len() } else { 0 }, 0.0);
        self.q.resize(blocks * SUB, 0);
        self.scale_sum.resize(blocks, [0.0; 2]);
        self.halves.resize(blocks, [0.0; 2]);
        self.totals.resize(blocks, 0);
        if !x.is_empty() {
            self.fill(pool, x, isa);
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

    fn fill(&mut self, pool: &Pool, x: &[f32], isa: Isa) {
        let (rows, cols) = (self.rows, self.cols);
        let has = self.has.unwrap_or(Needs::ALL);
        let floats = SendPtr(self.floats.as_mut_ptr());
        let out = BlockSink {
            rows,
            q: SendPtr(self.q.as_mut_ptr()),
            scale_sum: SendPtr(self.scale_sum.as_mut_ptr()),
            halves: SendPtr(self.halves.as_mut_ptr()),
            totals: SendPtr(self.totals.as_mut_ptr()),
        };
        let one_row = |i: usize| {
            let row = &x[i * cols..][..cols];
            if has.floats {
                // SAFETY: `floats` holds as many values as `x`, and each row is copied by one task.
                unsafe { floats.get().add(i * cols).copy_from_nonoverlapping(row.as_ptr(), cols) };
            }
            if has.blocks {
                // SAFETY: the sink holds rows * cols / 32 blocks, and row `i` belongs to one task.
                unsafe { out.quantize_row(i, row, isa) };
            }
        };
        if x.len() < PARALLEL {
            return (0..rows).for_each(one_row);
        }
        let chunk = rows.div_ceil(4 * pool.threads()).max(1);
        pool.run(rows.div_ceil(chunk), &|c| {
            (c * chunk..rows.min((c + 1) * chunk)).for_each(one_row);
        });
    }
}

/// Where rows write their blocks; each row has its own, spread over the buffers.
struct BlockSink {
    rows: usize,
    q: SendPtr<i8>,
    scale_sum: SendPtr<[f32; 2]>,
    halves: SendPtr<[f32; 2]>,
    totals: SendPtr<i32>,
}

impl BlockSink {
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
