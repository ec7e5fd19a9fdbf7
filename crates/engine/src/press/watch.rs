//! What a session gathers for presses while it reads: the newest queries, moments of the queries, attention mass.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, Columns, Reduce, attention_columns};

use super::{Needs, Press};
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;

/// Name of the column that holds the attention mass.
pub const ATTENTION_MASS: &str = "attention_mass";

/// Tokens that a layer has just read, their keys and values already in the cache.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// The model.
    pub model: &'a Model,
    /// Layer.
    pub layer: usize,
    /// Positions of the tokens.
    pub positions: &'a [u32],
    /// What the attention block read, after its input norm: `(tokens, hidden)`; empty unless it was asked for.
    pub hidden: &'a [f32],
    /// The residual stream that the block reads, before its input norm: `(tokens, hidden)`.
    pub residual: &'a [f32],
    /// Queries after norm, before rotation, `(tokens, q_heads, head_dim)`; empty unless moments were asked for.
    pub q_unrotated: &'a [f32],
    /// Queries after rotation, `(tokens, q_heads, head_dim)`.
    pub q: &'a [f32],
    /// The same as they meet the stored keys: turned where the cache turns keys.
    pub q_meeting: &'a [f32],
    /// Logarithm of the sum of exponentials of each query's logits, `(tokens, q_heads)`; empty unless attention mass
    /// was asked for.
    pub lse: &'a [f32],
}

impl Piece<'_> {
    /// How the layer's logits are made.
    pub fn params(&self) -> AttendParams {
        let c = self.model.config();
        AttendParams { scale: c.attention_scale, softcap: c.attention_softcap, window: c.attention[self.layer].window }
    }
}

/// What has been gathered for one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerState {
    /// The newest queries after rotation.
    pub queries: RecentQueries,
    /// Running moments of the queries before rotation.
    pub moments: Moments,
    /// Queries that single presses still wait with, by name.
    pub waiting: BTreeMap<String, RecentQueries>,
    /// Running state of single presses, by name.
    pub named: BTreeMap<String, Vec<f32>>,
}

/// The newest queries, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentQueries {
    /// `(kept, q_heads, head_dim)`, after rotation.
    pub rows: Vec<f32>,
    /// `(kept)`.
    pub positions: Vec<u32>,
}

impl RecentQueries {
    /// Numbers a query.
    pub fn width(&self) -> usize {
        self.rows.len() / self.positions.len().max(1)
    }

    /// Drop the oldest `count`.
    pub fn drop_oldest(&mut self, count: usize) {
        let width = self.width();
        self.positions.drain(..count);
        self.rows.drain(..count * width);
    }

    fn push(&mut self, positions: &[u32], rows: &[f32], most: usize) {
        if positions.is_empty() {
            return;
        }
        let width = rows.len() / positions.len().max(1);
        let new = positions.len().min(most);
        let stay = self.positions.len().min(most - new);
        let gone = self.positions.len() - stay;
        self.positions.drain(..gone);
        self.rows.drain(..gone * width);
        self.positions.extend_from_slice(&positions[positions.len() - new..]);
        self.rows.extend_from_slice(&rows[(positions.len() - new) * width..]);
    }

    fn truncate(&mut self, seen: usize) {
        let width = self.width();
        let stay = self.positions.partition_point(|&p| (p as usize) < seen);
        self.positions.truncate(stay);
        self.rows.truncate(stay * width);
    }
}

/// Sums over the queries of a layer, before rotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Queries counted.
    pub count: u64,
    /// `(q_heads, head_dim)`.
    pub sum: Vec<f64>,
    /// `(q_heads, head_dim, head_dim)`, the lower triangle; empty unless the covariance was asked for.
    pub outer: Vec<f64>,
    /// The first tokens, which the sums leave out: as many as the press that leaves out most.
    pub early: RecentQueries,
}

impl Moments {
    fn push(&mut self, piece: &Piece<'_>, needs: &Needs) {
        let c = piece.model.config();
        let (heads, dim) = (c.q_heads, c.head_dim);
        let first = piece.positions.partition_point(|&p| (p as usize) < needs.moments_skip);
        let (early, rows) = piece.q_unrotated.split_at(first * heads * dim);
        self.early.push(&piece.positions[..first], early, needs.moments_skip);
        self.sum.resize(heads * dim, 0.0);
        self.outer.resize(if needs.query_covariance { heads * dim * dim } else { 0 }, 0.0);
        let tokens = piece.positions.len() - first;
        self.count += tokens as u64;
        for row in rows.chunks_exact(heads * dim) {
            self.sum.iter_mut().zip(row).for_each(|(sum, &q)| *sum += f64::from(q));
        }
        if tokens == 0 || self.outer.is_empty() {
            return;
        }
        piece.model.pool().chunks(&mut self.outer, dim * dim, |head, outer| {
            let at = |token: usize| &rows[(token * heads + head) * dim..][..dim];
            // f32 inside a few tokens, f64 across: exact enough to subtract the mean's square later
            let mut part = vec![0f32; dim * dim];
            for block in (0..tokens).step_by(64) {
                part.fill(0.0);
                for token in block..(block + 64).min(tokens) {
                    let q = at(token);
                    for (i, row) in part.chunks_exact_mut(dim).enumerate() {
                        let qi = q[i];
                        row[..=i].iter_mut().zip(q).for_each(|(sum, qj)| *sum += qi * qj);
                    }
                }
                outer.iter_mut().zip(&part).for_each(|(sum, &p)| *sum += f64::from(p));
            }
        });
    }

    /// The moments of all tokens but the first `skip`, whatever other presses leave out.
    pub fn beyond(&self, skip: usize) -> Cow<'_, Moments> {
        let first = self.early.positions.partition_point(|&p| (p as usize) < skip);
        if first == self.early.positions.len() {
            return Cow::Borrowed(self);
        }
        let mut all = self.clone();
        all.early = RecentQueries::default();
        let width = self.early.width();
        for row in self.early.rows.chunks_exact(width).skip(first) {
            all.count += 1;
            all.sum.iter_mut().zip(row).for_each(|(sum, &q)| *sum += f64::from(q));
        }
        if !all.outer.is_empty() {
            let dim = all.outer.len() / width;
            for row in self.early.rows.chunks_exact(width).skip(first) {
                for (outer, q) in all.outer.chunks_exact_mut(dim * dim).zip(row.chunks_exact(dim)) {
                    for (i, sums) in outer.chunks_exact_mut(dim).enumerate() {
                        sums[..=i].iter_mut().zip(q).for_each(|(sum, &x)| *sum += f64::from(q[i]) * f64::from(x));
                    }
                }
            }
        }
        Cow::Owned(all)
    }

    /// Count the queries of another text, too. Both leave the same first tokens out.
    pub fn add(&mut self, other: &Moments) {
        self.count += other.count;
        for (mine, theirs) in [(&mut self.sum, &other.sum), (&mut self.outer, &other.outer)] {
            mine.resize(theirs.len().max(mine.len()), 0.0);
            mine.iter_mut().zip(theirs).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Mean query of a head, `(head_dim)`.
    pub fn mean(&self, head: usize, dim: usize) -> Vec<f64> {
        self.sum[head * dim..(head + 1) * dim].iter().map(|s| s / self.count.max(1) as f64).collect()
    }

    /// Covariance of the queries of a head, `(head_dim, head_dim)`, divided by the count.
    pub fn covariance(&self, head: usize, dim: usize) -> Vec<f64> {
        let (mean, n) = (self.mean(head, dim), self.count.max(1) as f64);
        let outer = &self.outer[head * dim * dim..][..dim * dim];
        let mut out = vec![0.0; dim * dim];
        for i in 0..dim {
            for j in 0..=i {
                let c = outer[i * dim + j] / n - mean[i] * mean[j];
                out[i * dim + j] = c;
                out[j * dim + i] = c;
            }
        }
        out
    }
}

/// The gatherer of one session.
pub(crate) struct Watch {
    presses: Vec<Arc<dyn Press>>,
    needs: Needs,
    /// Layers that are pressed at all.
    layers: Vec<LayerState>,
    watched: Vec<bool>,
    scratch: AttendScratch,
    columns: Vec<Vec<f32>>,
    /// Something was taken back that sums still count.
    counts_more: bool,
}

impl Watch {
    /// A gatherer for some presses; sliding layers are left out.
    pub fn new(presses: Vec<Arc<dyn Press>>, config: &Config) -> Watch {
        let needs = presses.iter().fold(Needs::default(), |needs, p| needs.and(p.needs()));
        Watch {
            presses,
            needs,
            layers: vec![LayerState::default(); config.layers],
            watched: config.attention.iter().map(|a| a.window.is_none()).collect(),
            scratch: AttendScratch::default(),
            columns: Vec::new(),
            counts_more: false,
        }
    }

    /// Do running sums count tokens that were taken back since?
    pub fn counts_more(&self) -> bool {
        self.counts_more
    }

    /// Does anything at all have to be gathered?
    pub fn is_idle(&self) -> bool {
        self.presses.is_empty()
    }

    /// Are queries before rotation wanted?
    pub fn wants_unrotated(&self) -> bool {
        self.needs.query_mean || self.needs.query_covariance
    }

    /// Is what the attention block reads wanted?
    pub fn wants_hidden(&self) -> bool {
        self.needs.hidden_states
    }

    /// Is the log-sum-exp wanted in this layer?
    pub fn wants_lse(&self, layer: usize) -> bool {
        self.needs.attention_mass && self.watched[layer]
    }

    /// What has been gathered.
    pub fn layers(&self) -> &[LayerState] {
        &self.layers
    }

    /// The same for writing (restoring a saved session).
    pub fn layers_mut(&mut self) -> &mut [LayerState] {
        &mut self.layers
    }

    /// Is everything that a press needs of the past gathered here?
    pub fn has(&self, needs: &Needs) -> bool {
        let mine = &self.needs;
        mine.recent_queries >= needs.recent_queries
            && (mine.query_mean || !needs.query_mean)
            && (mine.query_covariance || !needs.query_covariance)
            && (mine.attention_mass || !needs.attention_mass)
            && (mine.hidden_states || !needs.hidden_states)
            && (mine.moments_skip >= needs.moments_skip || !needs.query_mean)
    }

    /// A gatherer for the same presses that goes on from here.
    pub fn fork(&self) -> Watch {
        Watch {
            presses: self.presses.clone(),
            needs: self.needs,
            layers: self.layers.clone(),
            watched: self.watched.clone(),
            scratch: AttendScratch::default(),
            columns: Vec::new(),
            counts_more: self.counts_more,
        }
    }

    /// Forget what came at or after a position. Sums cannot be taken back: they keep counting what was read.
    pub fn truncate(&mut self, seen: usize) {
        self.counts_more = seen > 0 && (self.counts_more || self.needs.attention_mass || self.wants_unrotated());
        for layer in &mut self.layers {
            layer.queries.truncate(seen);
            layer.waiting.values_mut().for_each(|queries| queries.truncate(seen));
            if seen == 0 {
                *layer = LayerState::default();
            }
        }
    }

    /// Look at what a layer has just read.
    pub fn observe(&mut self, piece: &Piece<'_>, cache: &mut LayerCache) -> Result<(), EngineError> {
        if !self.watched[piece.layer] {
            return Ok(());
        }
        let state = &mut self.layers[piece.layer];
        if self.needs.recent_queries > 0 {
            state.queries.push(piece.positions, piece.q, self.needs.recent_queries);
        }
        if self.needs.query_mean || self.needs.query_covariance {
            state.moments.push(piece, &self.needs);
        }
        if self.needs.attention_mass {
            add_mass(piece, cache, &mut self.scratch, &mut self.columns)?;
        }
        for press in &self.presses {
            press.observe(piece, cache, state)?;
        }
        Ok(())
    }
}

/// Add the attention of the piece's queries to the mass of every slot: the mean over the group of the sum over queries.
fn add_mass(
    piece: &Piece<'_>,
    cache: &mut LayerCache,
    scratch: &mut AttendScratch,
    columns: &mut Vec<Vec<f32>>,
) -> Result<(), EngineError> {
    let c = piece.model.config();
    columns.resize_with(c.q_heads, Vec::new);
    for (number, column) in columns.iter_mut().enumerate() {
        column.clear();
        column.resize(cache.heads()[number / c.group()].len(), 0.0);
    }
    cache.with_views(|heads| {
        let (q, q_positions) = (piece.q_meeting, piece.positions);
        let input = AttendInput { q, q_positions, q_heads: c.q_heads, heads, params: piece.params() };
        let wanted = Columns { input: &input, lse: piece.lse, weights: None, reduce: Reduce::Sum };
        attention_columns(piece.model.pool(), piece.model.isa(), &wanted, columns, scratch)
    })?;
    let group = c.group();
    for (number, head) in cache.heads_mut().iter_mut().enumerate() {
        let mass = head.column_mut(ATTENTION_MASS);
        for column in &columns[number * group..(number + 1) * group] {
            mass.iter_mut().zip(column).for_each(|(mass, c)| *mass += c / group as f32);
        }
    }
    Ok(())
}
