//! The product.

use super::{Activation, GroupedPlan, Learner, Learners, Residual, Way, check};
use crate::KernelError;
use crate::gemm::{Left, Target, block};
use crate::isa::Isa;
use crate::ops;
use crate::pool::{Pool, SendPtr};
use std::cell::RefCell;

/// Rows of a task at most: their inputs, hidden values and sums together fill a second-level cache of half a megabyte at
/// the widths of ViT-S.
const TASK_ROWS: usize = 96;
/// Rows that tiles of any level divide well; a task has no fewer unless the call has.
const ROW_UNIT: usize = 12;
/// Tasks a thread should get, so that all finish at about the same time.
const TASKS_A_THREAD: usize = 4;

/// A thread's buffers, kept between calls.
#[derive(Default)]
struct Scratch {
    /// Gathered rows (rows, width).
    x: Vec<f32>,
    /// (rows, hidden).
    hidden: Vec<f32>,
    /// (rows, width).
    sums: Vec<f32>,
    /// Sums of rows that are done while others go on.
    done: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out[t] += (sum over n <= k[t] of learner n (x[t]) + bias) * scale`. `x`, `out`: (tokens, width); `k`: learners of each
/// token. Tokens of k = 0 get the bias only, and are not touched where there is none. After the call `plan` says how it
/// went.
///
/// # Errors
/// Lengths disagree, or a k is more than there are learners; `out` is then untouched.
pub fn grouped_ffn(
    (pool, isa): (&Pool, Isa),
    (x, k): (&[f32], &[u8]),
    learners: &Learners,
    residual: Residual,
    plan: &mut GroupedPlan,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check(x, k, learners, residual, out)?;
    plan.sort(k, learners);
    let tokens = k.len();
    if tokens == 0 {
        return Ok(());
    }
    let tasks = tokens.div_ceil(TASK_ROWS).max((pool.threads() * TASKS_A_THREAD).min(tokens.div_ceil(2 * ROW_UNIT)));
    let rows = if pool.threads() == 1 { TASK_ROWS } else { tokens.div_ceil(tasks).next_multiple_of(ROW_UNIT) };
    let call =
        Call { isa, x, k, learners, residual, order: &plan.order, way: plan.way(), out: SendPtr(out.as_mut_ptr()) };
    pool.run(tokens.div_ceil(rows), &|task| {
        let first = task * rows;
        let places = first..tokens.min(first + rows);
        SCRATCH.with_borrow_mut(|scratch| call.task(places, scratch));
    });
    Ok(())
}

struct Call<'a> {
    isa: Isa,
    x: &'a [f32],
    k: &'a [u8],
    learners: &'a Learners,
    residual: Residual<'a>,
    order: &'a [u32],
    way: Way,
    out: SendPtr<f32>,
}

impl Call<'_> {
    /// The token at a place of the call's order.
    fn token(&self, place: usize) -> usize {
        match self.way {
            Way::Grouped => self.order[place] as usize,
            Way::Dense => place,
        }
    }

    fn learners_of(&self, place: usize) -> usize {
        usize::from(self.k[self.token(place)])
    }

    fn task(&self, places: std::ops::Range<usize>, scratch: &mut Scratch) {
        let (d, rows, first) = (self.learners.width, places.len(), places.start);
        let most = places.clone().map(|p| self.learners_of(p)).max().unwrap_or(0);
        scratch.sums.resize(scratch.sums.len().max(rows * d), 0.0);
        if most > 0 && self.way == Way::Grouped {
            scratch.x.resize(scratch.x.len().max(rows * d), 0.0);
            for (to, place) in scratch.x.chunks_exact_mut(d).zip(places.clone()) {
                if self.learners_of(place) == 0 {
                    break; // sorted: none of the rest runs
                }
                to.copy_from_slice(&self.x[self.token(place) * d..][..d]);
            }
        }
        for (n, learner) in self.learners.list[..most].iter().enumerate() {
            match self.way {
                Way::Grouped => {
                    let asking = places.clone().take_while(|p| self.learners_of(*p) > n).count();
                    let at = scratch.x.as_ptr();
                    self.learner(n, learner, (at, asking), &mut scratch.hidden, &mut scratch.sums);
                }
                Way::Dense => {
                    let at = self.x[first * d..].as_ptr();
                    let over = |place: &usize| self.learners_of(*place) <= n;
                    scratch.done.clear();
                    for place in places.clone().filter(over) {
                        scratch.done.extend_from_slice(&scratch.sums[(place - first) * d..][..d]);
                    }
                    self.learner(n, learner, (at, rows), &mut scratch.hidden, &mut scratch.sums);
                    for (place, kept) in places.clone().filter(over).zip(scratch.done.chunks_exact(d)) {
                        scratch.sums[(place - first) * d..][..d].copy_from_slice(kept);
                    }
                }
            }
        }
        for place in places {
            let ran = self.learners_of(place) > 0;
            let sum = ran.then(|| &scratch.sums[(place - first) * d..][..d]);
            // SAFETY: `order` is a permutation of the tokens and places of tasks are disjoint, so each row of `out` is met
            // by one task; its length was checked, and it stays borrowed until the section ends.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.get().add(self.token(place) * d), d) };
            self.residual.add(sum, out);
        }
    }

    /// `sums (+)= act(x W1ᵀ + b1) W2ᵀ` for the first `rows` rows of `x`.
    fn learner(
        &self,
        n: usize,
        learner: &Learner,
        (x, rows): (*const f32, usize),
        hidden: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        let (d, w) = (self.learners.width, learner.b1.len());
        hidden.resize(hidden.len().max(rows * w), 0.0);
        let left = |at, row_stride| Left { at, row_stride, col_stride: 1 };
        // SAFETY: `x` is readable for (rows, d) by whoever calls; panels are (d, w) and (w, d) as packed; `hidden` and
        // `sums` are this thread's own and hold (rows, w) and (rows, d).
        unsafe {
            let target = Target { at: hidden.as_mut_ptr(), stride: w };
            block(self.isa, left(x, d), learner.w1.from(0), (rows, d, w), target, false);
        }
        for row in hidden[..rows * w].chunks_exact_mut(w) {
            match self.learners.activation {
                Activation::Gelu => ops::bias_gelu_row(self.isa, row, &learner.b1),
                Activation::Identity => row.iter_mut().zip(&learner.b1).for_each(|(h, b)| *h += b),
            }
        }
        assert!(sums.len() >= rows * d, "sums of {rows} rows");
        // SAFETY: as above.
        unsafe {
            let target = Target { at: sums.as_mut_ptr(), stride: d };
            block(self.isa, left(hidden.as_ptr(), w), learner.w2.from(0), (rows, w, d), target, n > 0);
        }
    }
}
