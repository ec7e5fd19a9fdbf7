//! Feed-forwards of which each token runs as much as it asks for: adaptive computation modules (Wójcik et al.,
//! arXiv 2312.10193) on a CPU.
//!
//! * [`Learners`]: the packed weights of N ordered learners whose outputs add up; token t runs the first `k[t]`.
//! * [`GroupedPlan`]: tokens sorted by k, once a call; buffers are kept.
//! * [`grouped_ffn`]: the product. `reference` holds the masked one that it is held against.
//!
//! Sorted by k, descending, the rows of learner n are the first `m_n`: each learner is one product of contiguous rows. A
//! task owns some sorted rows through all learners, so rows are gathered once, sums stay in its cache, nothing waits
//! between learners, and dear tasks are taken first. Where nearly all learner rows run anyway ([`DENSE_SHARE`]) rows stay
//! in place and all run all learners; sums of a row that is done are put back.
//!
//! Either way a row is the same chain of additions, learner after learner, each along its own columns in one order: its
//! bits depend on no other row, on no cut into tasks and on no number of threads.

mod plan;
mod reference;
mod run;

pub use plan::{GroupedPlan, Way};
pub use reference::masked_ffn;
pub use run::grouped_ffn;

use crate::KernelError;
use crate::gemm::{Panels, View};
use crate::pool::Pool;

/// Share of the possible learner rows from which on rows are not sorted and gathered.
pub const DENSE_SHARE: f64 = 0.93;
/// Learners a module has at most; k is a byte.
pub const MOST_LEARNERS: usize = 64;

/// What stands between a learner's two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Phi(x)`, exact.
    Gelu,
    /// Nothing.
    Identity,
}

/// A learner's weights as they are stored.
#[derive(Clone, Copy, Debug)]
pub struct LearnerWeights<'a> {
    /// First layer (w, d).
    pub w1: &'a [f32],
    /// Its bias (w); empty for none.
    pub b1: &'a [f32],
    /// Second layer (d, w), a slab of its own.
    pub w2: &'a [f32],
}

struct Learner {
    w1: Panels,
    b1: Vec<f32>,
    w2: Panels,
}

/// N ordered learners, packed.
pub struct Learners {
    width: usize,
    activation: Activation,
    list: Vec<Learner>,
}

impl Learners {
    /// Packs learners of tokens of `width` values.
    ///
    /// # Errors
    /// No learner or more than [`MOST_LEARNERS`], a learner of width 0, or tensors whose lengths disagree.
    pub fn new(
        pool: &Pool,
        width: usize,
        activation: Activation,
        weights: &[LearnerWeights],
    ) -> Result<Learners, KernelError> {
        if weights.is_empty() || weights.len() > MOST_LEARNERS {
            let what = "learners against the most there may be (at least one)";
            return Err(KernelError::Mismatch { what, left: weights.len(), right: MOST_LEARNERS });
        }
        let pack = |w: &LearnerWeights| {
            let hidden = w.w1.len() / width.max(1);
            let length = |what, expected, got| match expected == got {
                true => Ok(()),
                false => Err(KernelError::Length { what, unit: "values", expected, got }),
            };
            length("a learner's first layer", hidden.max(1) * width.max(1), w.w1.len())?;
            length("a learner's second layer", hidden * width, w.w2.len())?;
            if !w.b1.is_empty() {
                length("a learner's hidden bias", hidden, w.b1.len())?;
            }
            Ok(Learner {
                w1: Panels::of(pool, View::new(w.w1, width).transposed()),
                b1: if w.b1.is_empty() { vec![0.0; hidden] } else { w.b1.to_vec() },
                w2: Panels::of(pool, View::new(w.w2, hidden).transposed()),
            })
        };
        let list = weights.iter().map(pack).collect::<Result<_, KernelError>>()?;
        Ok(Learners { width, activation, list })
    }

    /// N.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Values of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Hidden width of each learner.
    pub fn hidden(&self) -> impl Iterator<Item = usize> {
        self.list.iter().map(|l| l.b1.len())
    }

    /// Multiply-adds of both products of a token that runs `k` learners.
    pub fn macs(&self, k: usize) -> u64 {
        self.hidden().take(k).map(|w| 2 * (w * self.width) as u64).sum()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|l| l.w1.bytes() + l.w2.bytes() + 4 * l.b1.len()).sum()
    }
}

/// How a token's sum is added to the residual stream: `out += (sum + bias) * scale`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Residual<'a> {
    /// Output bias that every token gets, also at k = 0; empty for none: then tokens of k = 0 are not touched.
    pub bias: &'a [f32],
    /// Factors of layer scale; empty for none.
    pub scale: &'a [f32],
}

impl Residual<'_> {
    fn check(&self, width: usize) -> Result<(), KernelError> {
        for (what, values) in [("the output bias", self.bias), ("the layer scale", self.scale)] {
            if !values.is_empty() && values.len() != width {
                return Err(KernelError::Length { what, unit: "values", expected: width, got: values.len() });
            }
        }
        Ok(())
    }

    /// Adds a token's sum, or the bias alone where it has none.
    fn add(&self, sum: Option<&[f32]>, out: &mut [f32]) {
        match (sum, self.bias.is_empty(), self.scale.is_empty()) {
            (None, true, _) => {}
            (None, false, true) => out.iter_mut().zip(self.bias).for_each(|(o, b)| *o += b),
            (None, false, false) => {
                out.iter_mut().zip(self.bias).zip(self.scale).for_each(|((o, b), s)| *o += b * s);
            }
            (Some(sum), true, true) => out.iter_mut().zip(sum).for_each(|(o, y)| *o += y),
            (Some(sum), false, true) => {
                out.iter_mut().zip(sum).zip(self.bias).for_each(|((o, y), b)| *o += y + b);
            }
            (Some(sum), true, false) => {
                out.iter_mut().zip(sum).zip(self.scale).for_each(|((o, y), s)| *o += y * s);
            }
            (Some(sum), false, false) => {
                let each = out.iter_mut().zip(sum).zip(self.bias).zip(self.scale);
                each.for_each(|(((o, y), b), s)| *o += (y + b) * s);
            }
        }
    }
}

/// Shapes of a call, checked before anything is written.
fn check(x: &[f32], k: &[u8], learners: &Learners, residual: Residual, out: &[f32]) -> Result<(), KernelError> {
    let values = k.len() * learners.width;
    for (what, got) in [("the tokens", x.len()), ("the residual stream", out.len())] {
        if got != values {
            return Err(KernelError::Length { what, unit: "values", expected: values, got });
        }
    }
    if let Some(k) = k.iter().find(|k| usize::from(**k) > learners.count()) {
        let what = "learners that a token asks for against those there are";
        return Err(KernelError::Mismatch { what, left: usize::from(*k), right: learners.count() });
    }
    residual.check(learners.width)
}
