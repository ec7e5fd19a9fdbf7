//! Cutting products into tasks: blocks of activation rows that stay in L2, times groups of panels.
//!
//! Tasks of one row block follow each other, so that whoever takes the next one mostly finds the activations
//! in its cache. How the work is cut changes no result (see the module above), so the cut may depend on the
//! number of threads.

use super::activations::Activations;
use super::matrix::Matrix;
use crate::DType;
use crate::pool::{Pool, SendPtr};
use crate::weights::panel::panel_rows;
use std::cell::RefCell;
use std::ops::Range;

/// Bytes of activations a row block may have: half of a 512 KiB L2.
const BLOCK_BYTES: usize = 256 * 1024;
/// Most rows in a block: their sums for one panel should stay in L1.
const BLOCK_ROWS: usize = 256;
/// Weight bytes a task should at least read, so that grabbing tasks (some 50 ns each) stays cheap.
const TASK_BYTES: usize = 16 * 1024;
/// Tasks a thread should get of a product, so that all finish at about the same time.
const TASKS_A_THREAD: usize = 8;

/// One product and how it is cut.
struct Job<'a> {
    w: &'a Matrix,
    y: SendPtr<f32>,
    /// Activation rows in a block.
    rows: usize,
    /// Panels in a group.
    panels: usize,
    /// Groups of panels.
    groups: usize,
    tasks: usize,
}

/// A thread's buffers: kept between calls, so that decoding allocates nothing.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    panel: Vec<u8>,
    wide: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs products whose shapes have been checked.
pub(super) fn run<'a>(pool: &Pool, x: &Activations, jobs: &mut [(&'a Matrix, &mut [f32])]) {
    if x.cols() == 0 {
        return jobs.iter_mut().for_each(|(_, y)| y.fill(0.0));
    }
    let cut = |(w, y): &mut (&'a Matrix, &mut [f32])| Job::new(w, SendPtr(y.as_mut_ptr()), x, pool);
    let jobs: Vec<Job> = jobs.iter_mut().map(cut).collect();
    pool.run(jobs.iter().map(|job| job.tasks).sum(), &|mut task| {
        for job in &jobs {
            if task < job.tasks {
                return SCRATCH.with_borrow_mut(|scratch| job.task(task, x, scratch));
            }
            task -= job.tasks;
        }
    });
}

impl<'a> Job<'a> {
    fn new(w: &'a Matrix, y: SendPtr<f32>, x: &Activations, pool: &Pool) -> Job<'a> {
        let value_bytes = if w.dtype().is_float() { 4 } else { 1 };
        let fit = BLOCK_BYTES / (w.cols() * value_bytes).max(1);
        // Multiples of 12 suit both the tiles of six rows and an even number of rows.
        let rows = (fit.min(BLOCK_ROWS) / 12 * 12).max(12).min(x.rows().max(1));
        let blocks = x.rows().div_ceil(rows);
        let fair = (w.panels() * blocks).div_ceil(pool.threads() * TASKS_A_THREAD);
        let least = TASK_BYTES.div_ceil(w.panel_bytes().max(1) * rows.min(8));
        let panels = fair.min(16).max(least).clamp(1, w.panels().max(1));
        let groups = w.panels().div_ceil(panels);
        Job { w, y, rows, panels, groups, tasks: groups * blocks }
    }

    fn task(&self, task: usize, x: &Activations, scratch: &mut Scratch) {
        let (block, group) = (task / self.groups, task % self.groups);
        let rows = block * self.rows..x.rows().min((block + 1) * self.rows);
        let panels = group * self.panels..self.w.panels().min((group + 1) * self.panels);
        let Scratch { tile, panel, wide } = scratch;
        let width = panel_rows(self.w.dtype());
        tile.resize(rows.len() * width, 0.0);
        for index in panels {
            let bytes = self.w.panel(index, panel);
            multiply(self.w, bytes, x, rows.clone(), tile, wide);
            let first = index * width;
            let count = width.min(self.w.rows() - first);
            for (i, sums) in rows.clone().zip(tile.chunks_exact(width)) {
                // SAFETY: `y` is (m, n), `i < m` and `first + count <= n`; no two tasks share both a row
                // block and a panel, so nobody else writes these values.
                unsafe {
                    let at = self.y.get().add(i * self.w.rows() + first);
                    at.copy_from_nonoverlapping(sums.as_ptr(), count);
                }
            }
        }
    }
}

/// One panel times rows `rows` of `x` into `tile`: (rows, panel's rows).
fn multiply(w: &Matrix, panel: &[u8], x: &Activations, rows: Range<usize>, tile: &mut [f32], wide: &mut Vec<f32>) {
    #[cfg(target_arch = "x86_64")]
    if w.isa().runs_avx2() {
        // SAFETY: AVX2, FMA and F16C were detected; shapes were checked by `matmul_many`, so `x` has the
        // matrix's columns, `rows` is within it, and the tile was sized above.
        unsafe { multiply_avx2(w.dtype(), panel, x, rows, tile, wide) };
        return;
    }
    let _ = wide;
    let cols = x.cols();
    crate::weights::with_format!(
        w.dtype(),
        F => super::scalar::quant_panel::<F>(panel, &x.blocks(), rows, tile),
        float => {
            let x = &x.floats()[rows.start * cols..rows.end * cols];
            super::scalar::float_panel(w.dtype(), panel, x, cols, tile);
        }
    );
}

/// # Safety
/// As [`super::quant_avx2::quant_panel`] and [`super::float_avx2::float_panel`].
#[cfg(target_arch = "x86_64")]
unsafe fn multiply_avx2(
    dtype: DType,
    panel: &[u8],
    x: &Activations,
    rows: Range<usize>,
    tile: &mut [f32],
    wide: &mut Vec<f32>,
) {
    let cols = x.cols();
    // SAFETY: the caller's promises, passed on.
    unsafe {
        crate::weights::with_format!(
            dtype,
            F => super::quant_avx2::quant_panel::<F>(panel, &x.blocks(), rows, tile),
            float => {
                let x = &x.floats()[rows.start * cols..rows.end * cols];
                super::float_avx2::float_panel(dtype, panel, x, cols, tile, wide);
            }
        );
    }
}
