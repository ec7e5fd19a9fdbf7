//! Ragged paged attention: every kv head has its own number of kept slots, in its own pages, at its own positions.
//!
//! Two paths, chosen by the number of query rows that share a head's keys:
//! * `decode`: few rows. Memory-bound, so each key and value is read once, straight from its page, and the slots are
//!   split into fixed runs so that all cores help even with one query.
//! * `prefill`: many rows. Compute-bound, so tiles of keys are converted once and met by register-blocked kernels,
//!   with the softmax carried along (Dao et al., FlashAttention, 2022; Milakov & Gimelshein, online softmax, 2018).
//!
//! `columns` asks the opposite question, how much each slot is looked at, with the tiles of `prefill`.
//!
//! `scalar` is the plain twin of both, and what the tests compare with.

#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod block512;
pub mod bounds;
#[cfg(target_arch = "x86_64")]
mod channels;
mod columns;
#[cfg(target_arch = "x86_64")]
mod decode;
mod dense;
#[cfg(target_arch = "x86_64")]
mod dots;
#[cfg(target_arch = "x86_64")]
mod keys;
mod kind;
mod layout;
mod part;
#[cfg(target_arch = "x86_64")]
mod prefill;
#[cfg(target_arch = "x86_64")]
mod rows;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod values;

pub use columns::{Columns, Reduce, attention_columns};
pub use dense::{DenseShape, dense, dense_backward};
pub use kind::{KV_GROUP, KvType, MOST_BY_CHANNEL, UnknownKvType};
pub use layout::PageLayout;

use crate::KernelError;
use crate::isa::Isa;
use crate::pool::Pool;
use std::ops::Range;

/// The kept slots of one kv head: slot `s` is slot `s % tokens` of page `s / tokens`, or where `starts` says so.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// How the pages are laid out.
    pub layout: PageLayout,
    /// The pages in slot order; more than needed is allowed.
    pub pages: &'a [&'a [u8]],
    /// Position of each kept slot, strictly increasing; its length is the number of kept slots.
    pub positions: &'a [u32],
    /// Where pages are not full: the first slot of each page, ascending, with the number of slots behind the last.
    /// Empty where every page but the last is full.
    pub starts: &'a [u32],
}

impl HeadView<'_> {
    /// The page of a slot, and its place there.
    pub fn place(&self, slot: usize) -> (usize, usize) {
        if self.starts.is_empty() {
            return (slot / self.layout.tokens(), slot % self.layout.tokens());
        }
        let page = self.starts.partition_point(|&first| first as usize <= slot).saturating_sub(1);
        (page, slot - self.starts[page] as usize)
    }
}

/// What scales and limits the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendParams {
    /// Factor on q·k, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `cap * tanh(logit / cap)` after the scale (Gemma 2).
    pub softcap: Option<f32>,
    /// Window `w`: the key at position `p` is seen from position `q` iff `q - p < w`.
    pub window: Option<u32>,
}

/// Queries and the cache they look at.
#[derive(Clone, Copy, Debug)]
pub struct AttendInput<'a> {
    /// (m, q_heads, key_dim), already rotated.
    pub q: &'a [f32],
    /// (m), increasing.
    pub q_positions: &'a [u32],
    /// A multiple of the number of kv heads; query heads of one kv head are neighbours.
    pub q_heads: usize,
    /// One view for each kv head; all with the same key and value widths.
    pub heads: &'a [HeadView<'a>],
    /// Scale, softcap and window.
    pub params: AttendParams,
}

/// Buffers of [`attend`], kept between calls so that the steady state allocates nothing.
#[derive(Default, Debug)]
pub struct AttendScratch {
    floats: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    queries: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    ranges: Vec<Range<usize>>,
    #[cfg(target_arch = "x86_64")]
    tasks: Vec<decode::Task>,
    #[cfg(target_arch = "x86_64")]
    workers: Vec<prefill::Worker>,
}

/// Rows (queries times query heads) a kv head up to which the decode path is taken; also for one query of any group.
#[cfg(target_arch = "x86_64")]
const DECODE_ROWS: usize = 24;

/// Causal softmax attention of `m` queries over the kept slots of each kv head.
///
/// `out` is (m, q_heads, value_dim), overwritten; `lse` is (m, q_heads), the natural logarithm of the sum of
/// exponentials (minus infinity where a query sees nothing; its output is zeros). The result does not depend on the
/// number of threads. Nothing of size m x n is ever stored.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::Mismatch`] where a size does not fit the others.
pub fn attend(
    pool: &Pool,
    isa: Isa,
    input: &AttendInput,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
    scratch: &mut AttendScratch,
) -> Result<(), KernelError> {
    let shape = Shape::check(input, out.len(), lse.as_ref().map(|l| l.len()))?;
    run(pool, isa, input, &shape, (out, lse), scratch);
    Ok(())
}

/// The `lse` of [`attend`] alone, with its bits: values are neither read nor added up, which saves half of the work.
///
/// # Errors
/// Those of [`attend`].
pub fn attend_lse(
    pool: &Pool,
    isa: Isa,
    input: &AttendInput,
    lse: &mut [f32],
    scratch: &mut AttendScratch,
) -> Result<(), KernelError> {
    let shape = Shape::of(input)?;
    length("the lse buffer (m, q_heads)", "values", shape.m * input.q_heads, lse.len())?;
    // Outputs without a channel.
    run(pool, isa, input, &Shape { value_dim: 0, ..shape }, (&mut [], Some(lse)), scratch);
    Ok(())
}

fn run(
    pool: &Pool,
    isa: Isa,
    input: &AttendInput,
    shape: &Shape,
    results: (&mut [f32], Option<&mut [f32]>),
    scratch: &mut AttendScratch,
) {
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        if shape.m * shape.group <= DECODE_ROWS || shape.m == 1 {
            decode::attend(pool, input, shape, results, scratch);
        } else {
            prefill::attend(pool, isa, input, shape, results, scratch);
        }
        return;
    }
    let _ = isa;
    scalar::attend(pool, input, shape, results, scratch);
}

/// The sizes of one call, checked against each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Queries.
    pub m: usize,
    /// Query heads that share one kv head.
    pub group: usize,
    pub key_dim: usize,
    /// Zero where values are not asked for.
    pub value_dim: usize,
}

impl Shape {
    fn check(input: &AttendInput, out: usize, lse: Option<usize>) -> Result<Shape, KernelError> {
        let shape = Shape::of(input)?;
        let rows = shape.m * input.q_heads;
        length("the output buffer (m, q_heads, value_dim)", "values", rows * shape.value_dim, out)?;
        if let Some(lse) = lse {
            length("the lse buffer (m, q_heads)", "values", rows, lse)?;
        }
        Ok(shape)
    }

    fn of(input: &AttendInput) -> Result<Shape, KernelError> {
        let (m, q_heads, kv_heads) = (input.q_positions.len(), input.q_heads, input.heads.len());
        let Some(first) = input.heads.first() else {
            return Err(KernelError::Mismatch { what: "query heads and kv heads", left: q_heads, right: 0 });
        };
        let (key_dim, value_dim) = (first.layout.key_dim(), first.layout.value_dim());
        if key_dim == 0 || value_dim == 0 {
            return Err(KernelError::Mismatch {
                what: "key and value widths, which must not be zero",
                left: key_dim,
                right: value_dim,
            });
        }
        let group = q_heads / kv_heads;
        expect("query heads against a whole number for each kv head", q_heads, group * kv_heads)?;
        length("the query buffer (m, q_heads, key_dim)", "values", m * q_heads * key_dim, input.q.len())?;
        for head in input.heads {
            let layout = &head.layout;
            expect("key widths of two heads", key_dim, layout.key_dim())?;
            expect("value widths of two heads", value_dim, layout.value_dim())?;
            let needed = match head.starts {
                [] => layout.pages_for(head.positions.len()),
                starts => starts.len() - 1,
            };
            if let Some(&slots) = head.starts.last() {
                expect("slots of a kv head and of its pages", head.positions.len(), slots as usize)?;
                debug_assert!(head.starts.windows(2).all(|w| (w[1] - w[0]) as usize <= layout.tokens() && w[0] < w[1]));
            }
            let pages = &head.pages[..needed.min(head.pages.len())];
            length("the page list of a kv head", "pages", needed, pages.len())?;
            for page in pages {
                length("a cache page", "bytes", layout.page_bytes(), page.len())?;
            }
            debug_assert!(head.positions.is_sorted_by(|a, b| a < b), "positions must increase");
        }
        Ok(Shape { m, group, key_dim, value_dim })
    }
}

fn expect(what: &'static str, left: usize, right: usize) -> Result<(), KernelError> {
    if left == right { Ok(()) } else { Err(KernelError::Mismatch { what, left, right }) }
}

fn length(what: &'static str, unit: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { what, unit, expected, got }) }
}

/// The slots a query at position `q` sees. Positions increase, so they are one run.
pub(crate) fn visible(positions: &[u32], q: u32, window: Option<u32>) -> Range<usize> {
    let end = positions.partition_point(|&p| p <= q);
    let start = match window {
        // q - p < w  <=>  p > q - w; with w > q every earlier key is inside.
        Some(w) => positions[..end].partition_point(|&p| q - p >= w),
        None => 0,
    };
    start..end
}
