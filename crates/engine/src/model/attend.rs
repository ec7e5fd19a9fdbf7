//! Attention of one layer over its whole keys and over the narrow ones that a press left, joined.

use meden_kernels::KernelError;
use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, HeadView, attend};

use super::Model;
use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::cache::narrow::Narrow;

/// Queries of some tokens, already rotated.
pub(crate) struct Queries<'a> {
    /// `(tokens, q_heads, head_dim)`.
    pub rows: &'a [f32],
    /// `(tokens)`.
    pub positions: &'a [u32],
    /// How their logits are made.
    pub params: AttendParams,
}

impl Queries<'_> {
    /// Rows, gathered or whole, and the heads they look at.
    fn input<'b>(&'b self, q: &'b [f32], q_heads: usize, heads: &'b [HeadView<'b>]) -> AttendInput<'b> {
        AttendInput { q, q_positions: self.positions, q_heads, heads, params: self.params }
    }
}

/// Buffers that live from call to call.
#[derive(Default)]
pub(crate) struct Both {
    q: Vec<f32>,
    z: Vec<f32>,
    lse: Vec<f32>,
    whole_lse: Vec<f32>,
}

impl Model {
    /// Attend to whole and to narrow keys; `z` is `(tokens, q_heads, head_dim)`, `lse` `(tokens, q_heads)`.
    pub(crate) fn attend_both(
        &self,
        (cache, narrow): (&LayerCache, &Narrow),
        queries: &Queries<'_>,
        (z, lse): (&mut [f32], Option<&mut [f32]>),
        kernel: &mut AttendScratch,
        both: &mut Both,
    ) -> Result<(), KernelError> {
        let (pool, isa, q_heads) = (self.pool(), self.isa(), self.config().q_heads);
        let rows = queries.positions.len() * q_heads;
        both.whole_lse.resize(rows, 0.0);
        both.lse.resize(rows, 0.0);
        both.z.resize(z.len(), 0.0);
        let whole: Vec<_> = cache.views().collect();
        attend(pool, isa, &queries.input(queries.rows, q_heads, &whole), z, Some(&mut both.whole_lse), kernel)?;
        narrow.gather(queries.rows, q_heads, &mut both.q);
        let views: Vec<_> = narrow.heads().iter().map(HeadCache::view).collect();
        let input = queries.input(&both.q, q_heads, &views);
        attend(pool, isa, &input, &mut both.z, Some(&mut both.lse), kernel)?;
        join(z, &mut both.whole_lse, &both.z, &both.lse);
        if let Some(lse) = lse {
            lse.copy_from_slice(&both.whole_lse);
        }
        Ok(())
    }
}

/// Two attentions over different slots as one over all: outputs weighted by their sums of exponentials, into the first.
fn join(z: &mut [f32], lse: &mut [f32], other_z: &[f32], other_lse: &[f32]) {
    let dim = z.len() / lse.len().max(1);
    let rows = z.chunks_exact_mut(dim.max(1)).zip(other_z.chunks_exact(dim.max(1)));
    for ((z, other), (lse, &other_lse)) in rows.zip(lse.iter_mut().zip(other_lse)) {
        let top = lse.max(other_lse);
        if top == f32::NEG_INFINITY {
            continue; // neither sees anything: zeros
        }
        let (mine, theirs) = ((*lse - top).exp(), (other_lse - top).exp());
        let total = mine + theirs;
        z.iter_mut().zip(other).for_each(|(z, o)| *z = (*z * mine + o * theirs) / total);
        *lse = top + total.ln();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_attention_is_that_over_all_slots() {
        // logits 1, 2 | 0.5: values 3, 5 | 7
        let e = |x: f32| x.exp();
        let (mut z, mut lse) = (vec![(3.0 * e(1.0) + 5.0 * e(2.0)) / (e(1.0) + e(2.0))], vec![(e(1.0) + e(2.0)).ln()]);
        join(&mut z, &mut lse, &[7.0], &[0.5]);
        let total = e(1.0) + e(2.0) + e(0.5);
        assert!((z[0] - (3.0 * e(1.0) + 5.0 * e(2.0) + 7.0 * e(0.5)) / total).abs() < 1e-5);
        assert!((lse[0] - total.ln()).abs() < 1e-6);
        // what sees nothing changes nothing
        let (before, before_lse) = (z.clone(), lse.clone());
        join(&mut z, &mut lse, &[0.0], &[f32::NEG_INFINITY]);
        assert_eq!((&z, &lse), (&before, &before_lse));
        let (mut none, mut none_lse) = (vec![0.0], vec![f32::NEG_INFINITY]);
        join(&mut none, &mut none_lse, &z, &lse);
        assert_eq!((none, none_lse), (z, lse));
    }
}
