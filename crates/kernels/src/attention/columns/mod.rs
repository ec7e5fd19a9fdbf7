//! Attention mass by column: how much the queries look at each kept slot.
//!
//! Policies that evict by attention (H2O, SnapKV, TOVA, KVzip, KVCompose) score a slot by the weights that queries
//! give it: sums or maxima down the columns of the attention matrix. The matrix itself is never stored. It is computed
//! again from the queries, the cached keys and the logarithm of each row's sum, which [`attend`](super::attend)
//! returns: `weight = exp(logit - lse)`, so one pass over the keys is enough and values are not read.

#[cfg(target_arch = "x86_64")]
mod tiles;

use super::{AttendInput, AttendScratch, Shape, length, scalar};
use crate::KernelError;
use crate::isa::Isa;
use crate::pool::Pool;

/// What becomes of the weights of one column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduce {
    /// They are added up.
    Sum,
    /// The largest is kept.
    Max,
}

/// Which columns, and how their weights are put together.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Queries and cache, as for [`attend`](super::attend): scale, softcap and window count in the same way.
    pub input: &'a AttendInput<'a>,
    /// (m, q_heads), the natural logarithm of each row's sum of exponentials, as `attend` returns it. Another
    /// normaliser (over fewer slots, say) is as good, as long as no logit lies 80 or more above it.
    pub lse: &'a [f32],
    /// (m), a factor for each query; 1 where there is none.
    pub weights: Option<&'a [f32]>,
    /// Sum or maximum.
    pub reduce: Reduce,
}

/// For every query head and slot, the sum (or the largest) of `weights[query] * exp(logit - lse)` over the queries
/// that see the slot. It is ADDED to `out` (or the larger of both is kept), so that a caller can go on from piece to
/// piece, and pieces give the bits of one call. `out` has a row for each query head, as long as its kv head has slots;
/// what no query sees is left as it is. The result does not depend on the number of threads, and a weight that is not
/// a number makes its column NaN. Nothing of size m x n is stored.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::Mismatch`] where a size does not fit the others.
pub fn attention_columns(
    pool: &Pool,
    isa: Isa,
    columns: &Columns,
    out: &mut [Vec<f32>],
    scratch: &mut AttendScratch,
) -> Result<(), KernelError> {
    let shape = check(columns, out)?;
    if shape.m == 0 || shape.group == 0 {
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        tiles::add(pool, isa, columns, &shape, out, scratch);
        return Ok(());
    }
    let _ = (isa, scratch);
    scalar::columns(pool, columns, &shape, out);
    Ok(())
}

fn check(columns: &Columns, out: &[Vec<f32>]) -> Result<Shape, KernelError> {
    let (input, shape) = (columns.input, Shape::of(columns.input)?);
    length("the lse buffer (m, q_heads)", "values", shape.m * input.q_heads, columns.lse.len())?;
    if let Some(weights) = columns.weights {
        length("the weights of the queries (m)", "values", shape.m, weights.len())?;
    }
    length("the columns (q_heads, slots)", "rows", input.q_heads, out.len())?;
    for (h, row) in out.iter().enumerate() {
        let slots = input.heads[h / shape.group].positions.len();
        length("a row of columns, one for each slot of its kv head", "values", slots, row.len())?;
    }
    Ok(shape)
}
