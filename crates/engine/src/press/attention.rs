//! Attention of the newest queries, as presses read it: from the kernel's own passes, a column at a time.

use meden_kernels::attention::{
    AttendInput, AttendParams, AttendScratch, Columns, Reduce, attend, attend_lse, attention_columns,
};

use super::view::LayerView;
use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// The newest queries that a press asked for.
pub struct Recent<'a> {
    /// `(queries, q_heads, head_dim)`, after rotation.
    pub rows: &'a [f32],
    /// `(queries)`.
    pub positions: &'a [u32],
}

/// The newest `window` queries, fewer where the text is shorter.
pub fn recent<'a>(layer: &LayerView<'a>, press: &str, window: usize) -> Result<Recent<'a>, EngineError> {
    let queries = &layer.state.queries;
    if queries.positions.is_empty() {
        return Err(layer.missing(press, "recent queries"));
    }
    let width = queries.rows.len() / queries.positions.len();
    let first = queries.positions.len().saturating_sub(window);
    Ok(Recent { rows: &queries.rows[first * width..], positions: &queries.positions[first..] })
}

/// How the logits of a layer are made.
pub fn params(layer: &LayerView<'_>) -> AttendParams {
    let c = layer.config();
    AttendParams { scale: c.attention_scale, softcap: c.attention_softcap, window: c.attention[layer.layer].window }
}

/// What some queries read.
pub struct Outputs {
    /// Weighted means of the values, `(queries, q_heads, head_dim)`.
    pub rows: Vec<f32>,
    /// Logarithm of each row's sum of exponentials, `(queries, q_heads)`.
    pub lse: Vec<f32>,
}

/// Let some queries attend to the slots.
pub fn attended(layer: &LayerView<'_>, queries: &Recent<'_>) -> Result<Outputs, EngineError> {
    let c = layer.config();
    let (pool, isa) = (layer.model.pool(), layer.model.isa());
    let views: Vec<_> = layer.heads.iter().map(HeadCache::view).collect();
    let rotation = layer.heads.first().and_then(HeadCache::rotation);
    let mut q = queries.rows.to_vec();
    if let Some(rotation) = rotation {
        rotation.turn_all((pool, isa), &mut q, c.head_dim);
    }
    let input =
        AttendInput { q: &q, q_positions: queries.positions, q_heads: c.q_heads, heads: &views, params: params(layer) };
    let mut rows = vec![0f32; q.len()];
    let mut lse = vec![0f32; queries.positions.len() * c.q_heads];
    attend(pool, isa, &input, &mut rows, Some(&mut lse), &mut AttendScratch::default())?;
    if let Some(rotation) = rotation {
        rotation.turn_all((pool, isa), &mut rows, c.head_dim);
    }
    Ok(Outputs { rows, lse })
}

/// Attention that each slot receives from some queries, reduced over the queries (each times its weight): one row a
/// query head.
pub fn columns(
    layer: &LayerView<'_>,
    queries: &Recent<'_>,
    weights: Option<&[f32]>,
    reduce: Reduce,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let c = layer.config();
    let views: Vec<_> = layer.heads.iter().map(HeadCache::view).collect();
    let (pool, isa) = (layer.model.pool(), layer.model.isa());
    // Views are of keys as they are stored; queries meet them turned alike.
    let mut turned = Vec::new();
    if let Some(rotation) = layer.heads.first().and_then(HeadCache::rotation) {
        turned.extend_from_slice(queries.rows);
        rotation.turn_all((pool, isa), &mut turned, c.head_dim);
    }
    let input = AttendInput {
        q: if turned.is_empty() { queries.rows } else { &turned },
        q_positions: queries.positions,
        q_heads: c.q_heads,
        heads: &views,
        params: params(layer),
    };
    let mut scratch = AttendScratch::default();
    let mut lse = vec![0f32; queries.positions.len() * c.q_heads];
    attend_lse(pool, isa, &input, &mut lse, &mut scratch)?;
    let mut columns: Vec<Vec<f32>> =
        (0..c.q_heads).map(|q_head| vec![0.0; layer.heads[q_head / c.group()].len()]).collect();
    let wanted = Columns { input: &input, lse: &lse, weights, reduce };
    attention_columns(pool, isa, &wanted, &mut columns, &mut scratch)?;
    Ok(columns)
}

/// Rows of query heads averaged over the group of each kv head.
pub fn group_mean(columns: &[Vec<f32>], group: usize) -> Vec<Vec<f32>> {
    columns
        .chunks_exact(group)
        .map(|rows| {
            let mut mean = vec![0f32; rows[0].len()];
            for row in rows {
                mean.iter_mut().zip(row).for_each(|(m, r)| *m += r / group as f32);
            }
            mean
        })
        .collect()
}
