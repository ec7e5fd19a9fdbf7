//! Cutting products into tasks: a few activation rows times a group of neighbouring panels, small enough
//! that the sums of a task stay in L1.
//!
//! Tasks of one row block follow each other, so that whoever takes the next one mostly finds the activations
//! in its cache. How the work is cut changes no result (see the module above), so the cut may depend on the
//! number of threads.

use super::activations::Activations;
use super::matrix::Matrix;
use crate::pool::{Pool, SendPtr};
use crate::weights::panel::panel_rows;
use crate::weights::{Format, Kind};
use std::cell::RefCell;
use std::ops::Range;

/// Most activation rows of a task on quantised weights: with 16 panels their sums take 16 KiB, and one
/// block of activations, repeated over vectors, about 12 KiB.
const QUANT_BLOCK: usize = 32;
/// The same for signed formats, whose activations are repeated in 16 bits.
const WIDE_BLOCK: usize = 24;
/// Most activation rows of a task on tiles: unpacking a pair of panels costs as much as scaling ten of them.
const TILE_BLOCK: usize = 128;
/// Rows of a tile: rows of a block are a multiple of them.
const TILE_ROWS: usize = 16;
/// Most activation rows of a task on floats.
const FLOAT_BLOCK: usize = 48;
/// Most panels of a task on quantised weights: so many share the repeated activations.
const QUANT_GROUP: usize = 16;
/// Most panels of a task on floats, which share nothing but the cache.
const FLOAT_GROUP: usize = 4;
/// Weight bytes a task should at least read, so that grabbing tasks (some 50 ns each) stays cheap.
const TASK_BYTES: usize = 16 * 1024;
/// Tasks a thread should get of a product, so that all finish at about the same time.
const TASKS_A_THREAD: usize = 8;

/// Products that share a parallel section at most: q, k and v, or gate and up, and one more.
const TOGETHER: usize = 4;

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
pub(super) struct Scratch {
    /// Panels of a mapped weight.
    panels: Vec<u8>,
    /// Sums: (panels, rows, rows of a panel).
    tile: Vec<f32>,
    /// A panel of halves, widened.
    #[cfg(target_arch = "x86_64")]
    pub(super) wide: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    pub(super) rows: Vec<super::quant_avx2::Spread>,
    #[cfg(target_arch = "x86_64")]
    pub(super) wide_rows: Vec<super::quant_avx2::WideSpread>,
    #[cfg(target_arch = "x86_64")]
    pub(super) unpacked: Vec<super::quant_amx::Unpacked>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Whether the products of so many rows with this matrix go through tiles.
#[cfg(target_arch = "x86_64")]
fn uses_tiles(w: &Matrix, rows: usize) -> bool {
    !w.dtype().is_float() && w.isa().runs_amx() && rows > super::quant_vnni::FEW
}

/// Whether neighbouring panels share their registers.
#[cfg(target_arch = "x86_64")]
fn pairs(w: &Matrix) -> bool {
    !w.dtype().is_float() && w.isa().runs_avx512()
}

#[cfg(not(target_arch = "x86_64"))]
fn uses_tiles(_: &Matrix, _: usize) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn pairs(_: &Matrix) -> bool {
    false
}

/// Runs products whose shapes have been checked.
pub(super) fn run(pool: &Pool, x: &Activations, jobs: &mut [(&Matrix, &mut [f32])]) {
    if x.cols() == 0 {
        return jobs.iter_mut().for_each(|(_, y)| y.fill(0.0));
    }
    for some in jobs.chunks_mut(TOGETHER) {
        let mut cut = [const { None }; TOGETHER];
        for (job, (w, y)) in cut.iter_mut().zip(some) {
            *job = Some(Job::new(w, SendPtr(y.as_mut_ptr()), x, pool));
        }
        let jobs = || cut.iter().flatten();
        pool.run(jobs().map(|job| job.tasks).sum(), &|mut task| {
            for job in jobs() {
                if task < job.tasks {
                    return SCRATCH.with_borrow_mut(|scratch| job.task(task, x, scratch));
                }
                task -= job.tasks;
            }
        });
    }
}

impl<'a> Job<'a> {
    fn new(w: &'a Matrix, y: SendPtr<f32>, x: &Activations, pool: &Pool) -> Job<'a> {
        let tiles = uses_tiles(w, x.rows());
        let most = crate::weights::with_format!(
            w.dtype(),
            F => if tiles { TILE_BLOCK } else if <F as Format>::KIND == Kind::S8 { WIDE_BLOCK } else { QUANT_BLOCK },
            float => FLOAT_BLOCK
        );
        // Blocks of about equal size: a last block of one row would leave most of the machine unused.
        let mut rows = x.rows().div_ceil(x.rows().div_ceil(most).max(1)).max(1);
        if tiles {
            rows = rows.next_multiple_of(TILE_ROWS);
        }
        let blocks = x.rows().div_ceil(rows);
        let fair = (w.panels() * blocks).div_ceil(pool.threads() * TASKS_A_THREAD);
        let least = TASK_BYTES.div_ceil(w.panel_bytes().max(1) * rows);
        let group = if w.dtype().is_float() { FLOAT_GROUP } else { QUANT_GROUP };
        let most = fair.min(group).max(least).clamp(1, w.panels().max(1));
        let mut panels = w.panels().div_ceil(w.panels().div_ceil(most).max(1)).max(1);
        if pairs(w) {
            panels = panels.next_multiple_of(2);
        }
        let groups = w.panels().div_ceil(panels);
        Job { w, y, rows, panels, groups, tasks: groups * blocks }
    }

    fn task(&self, task: usize, x: &Activations, scratch: &mut Scratch) {
        let (block, group) = (task / self.groups, task % self.groups);
        let rows = block * self.rows..x.rows().min((block + 1) * self.rows);
        let panels = group * self.panels..self.w.panels().min((group + 1) * self.panels);
        let width = panel_rows(self.w.dtype());
        let mut tile = std::mem::take(&mut scratch.tile);
        let mut mapped = std::mem::take(&mut scratch.panels);
        tile.resize(panels.len() * rows.len() * width, 0.0);
        let bytes = self.w.panels_in(panels.clone(), &mut mapped);
        multiply(self.w, bytes, x, rows.clone(), &mut tile, scratch);
        for (i, y_row) in rows.clone().enumerate() {
            for (p, index) in panels.clone().enumerate() {
                let sums = &tile[(p * rows.len() + i) * width..][..width];
                let first = index * width;
                let count = width.min(self.w.rows() - first);
                // SAFETY: `y` is (m, n), `y_row < m` and `first + count <= n`; no two tasks share both a
                // row block and a panel, so nobody else writes these values.
                unsafe {
                    let at = self.y.get().add(y_row * self.w.rows() + first);
                    at.copy_from_nonoverlapping(sums.as_ptr(), count);
                }
            }
        }
        scratch.tile = tile;
        scratch.panels = mapped;
    }
}

/// Panels times rows `rows` of `x` into `tile`: (panels, rows, rows of a panel).
fn multiply(w: &Matrix, panels: &[u8], x: &Activations, rows: Range<usize>, tile: &mut [f32], scratch: &mut Scratch) {
    #[cfg(target_arch = "x86_64")]
    if w.isa().runs_avx2() {
        // SAFETY: AVX2, FMA and F16C were detected; shapes were checked by `matmul_many`, so `x` has the
        // matrix's columns, `rows` is within it, and the tile was sized above.
        unsafe { multiply_x86(w, panels, x, rows, tile, scratch) };
        return;
    }
    let _ = scratch;
    let cols = x.cols();
    let tile_size = rows.len() * panel_rows(w.dtype());
    let each = panels.chunks_exact(w.panel_bytes()).zip(tile.chunks_exact_mut(tile_size));
    crate::weights::with_format!(
        w.dtype(),
        F => each.for_each(|(panel, tile)| {
            super::scalar::quant_panel::<F>(panel, &x.blocks(), rows.clone(), tile);
        }),
        float => {
            let x = &x.floats()[rows.start * cols..rows.end * cols];
            each.for_each(|(panel, tile)| super::scalar::float_panel(w.dtype(), panel, x, cols, tile));
        }
    );
}

/// # Safety
/// AVX2, FMA and F16C are there. Shapes: as [`super::quant_avx2::quant_panels`] and
/// [`super::float_avx2::float_panel`].
#[cfg(target_arch = "x86_64")]
unsafe fn multiply_x86(
    w: &Matrix,
    panels: &[u8],
    x: &Activations,
    rows: Range<usize>,
    tile: &mut [f32],
    scratch: &mut Scratch,
) {
    use super::{float_avx2, float_avx512, quant_amx, quant_avx2, quant_vnni};
    let (cols, size, isa) = (x.cols(), w.panel_bytes(), w.isa());
    // SAFETY: the caller's promises, passed on; what more a kernel needs has just been detected.
    unsafe {
        crate::weights::with_format!(
            w.dtype(),
            F => if isa.runs_amx() {
                let kept = &mut scratch.unpacked;
                quant_amx::panels::<F>(panels, size, &x.blocks(), rows, tile, kept);
            } else if isa.runs_avx512() {
                quant_vnni::avx512_panels::<F>(panels, size, &x.blocks(), rows, tile);
            } else if isa.runs_avx_vnni() {
                quant_vnni::avx_panels::<F>(panels, size, &x.blocks(), rows, tile);
            } else {
                quant_avx2::quant_panels::<F>(panels, size, &x.blocks(), rows, tile, scratch);
            },
            float => {
                let tiles = tile.chunks_exact_mut(rows.len() * panel_rows(w.dtype()));
                let x = &x.floats()[rows.start * cols..rows.end * cols];
                for (panel, tile) in panels.chunks_exact(size).zip(tiles) {
                    if isa.runs_avx512() {
                        float_avx512::float_panel(w.dtype(), panel, x, cols, tile);
                    } else {
                        float_avx2::float_panel(w.dtype(), panel, x, cols, tile, &mut scratch.wide);
                    }
                }
            }
        );
    }
}
