//! One piece of tokens through the model, reading top-down: embed, blocks, logits.
//!
//! For each layer: norm, q k v, rotation, append to the cache, attend, residual; then the press may shrink this
//! layer's cache, so that the peak stays at the budget; then norm, feed-forward, residual. Hooks see each named site.

use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, attend};
use meden_kernels::matmul::{Activations, Matrix, matmul, matmul_many};
use meden_kernels::ops;

use super::config::Activation;
use super::rope::RopeTable;
use super::{Block, Linear, Model};
use crate::cache::KvCache;
use crate::error::EngineError;
use crate::hook::{Hook, HookPlan, Site};
use crate::press::plan::{Moment, Plan};
use crate::session::control::{Control, Emit};

/// Buffers that live from piece to piece, so that a decoded token allocates nothing here.
#[derive(Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,      // (tokens, hidden): the residual stream
    h: Vec<f32>,      // (tokens, hidden): what a sublayer reads, then what it adds
    q: Vec<f32>,      // (tokens, q_heads, head_dim)
    k: Vec<f32>,      // (tokens, kv_heads, head_dim)
    v: Vec<f32>,      // (tokens, kv_heads, head_dim)
    z: Vec<f32>,      // (tokens, q_heads, head_dim)
    gate: Vec<f32>,   // (tokens, intermediate)
    up: Vec<f32>,     // (tokens, intermediate)
    logits: Vec<f32>, // (rows, vocab)
    positions: Vec<u32>,
    tables: Vec<RopeTable>,
    activations: Option<Activations>,
    attend: AttendScratch,
}

/// Rows of logits computed at a time, so that a long text with a large vocabulary needs little memory.
const LOGIT_ROWS: usize = 32;

/// One piece of work.
pub(crate) struct Piece<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Tokens seen before.
    pub seen: usize,
    /// Which moment of the session this is, for the press.
    pub moment: Moment,
    /// Rotate with the long factors where the model has them.
    pub long_rope: bool,
    /// First row whose logits are wanted (`ids.len()` for none).
    pub logits_from: usize,
}

/// What a piece works on besides the model.
pub(crate) struct State<'a> {
    pub cache: &'a mut KvCache,
    pub plan: Option<&'a mut Plan>,
    pub scratch: &'a mut Scratch,
    pub hooks: &'a mut HookPlan,
}

impl Model {
    /// Run a piece. On an error the caller has to take the piece's tokens out of the cache again.
    pub(crate) fn run(
        &self,
        piece: &Piece<'_>,
        state: &mut State<'_>,
        control: &mut Control<'_>,
        emit: Emit<'_>,
    ) -> Result<(), EngineError> {
        self.embed(piece, state.scratch)?;
        for layer in 0..self.config.layers {
            if control.cancelled() {
                return Err(EngineError::Cancelled { done: 0, total: piece.ids.len() });
            }
            self.block(layer, piece, state, &mut control.hooks)?;
        }
        let next = (piece.seen + piece.ids.len()) as u32;
        for layer in 0..self.config.layers {
            state.cache.layer_mut(layer).slide(next);
        }
        self.logits(piece, state, &mut control.hooks, emit)
    }

    fn embed(&self, piece: &Piece<'_>, s: &mut Scratch) -> Result<(), EngineError> {
        let (tokens, hidden) = (piece.ids.len(), self.config.hidden);
        s.positions.clear();
        s.positions.extend((0..tokens).map(|t| (piece.seen + t) as u32));
        s.tables.resize_with(self.config.ropes.len(), RopeTable::default);
        for (rope, table) in self.config.ropes.iter().zip(&mut s.tables) {
            rope.fill(&s.positions, piece.long_rope, table);
        }
        s.x.resize(tokens * hidden, 0.0);
        for (&id, row) in piece.ids.iter().zip(s.x.chunks_exact_mut(hidden)) {
            if id as usize >= self.config.vocab {
                return Err(EngineError::TokenId { id, vocab: self.config.vocab });
            }
            self.embedding.row(id as usize, row);
        }
        if self.config.embedding_scale != 1.0 {
            ops::scale(self.pool(), self.isa(), &mut s.x, self.config.embedding_scale);
        }
        Ok(())
    }

    fn block(
        &self,
        layer: usize,
        piece: &Piece<'_>,
        state: &mut State<'_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let block = &self.blocks[layer];
        let tokens = piece.ids.len();
        state.visit(Site::ResidPre, layer, hooks, |s| &mut s.x)?;

        self.attention(layer, tokens, state, hooks)?;
        if let Some(plan) = state.plan.as_deref_mut() {
            plan.act(layer, state.cache.layer_mut(layer), piece.seen + tokens, piece.moment)?;
        }
        if let Some(norm) = &block.post_attention_norm {
            ops::rms_norm_inplace(pool, isa, &mut state.scratch.h, norm, c.norm_eps);
        }
        state.visit(Site::AttnOut, layer, hooks, |s| &mut s.h)?;
        ops::add(pool, isa, &mut state.scratch.x, &state.scratch.h);
        state.visit(Site::ResidMid, layer, hooks, |s| &mut s.x)?;

        self.mlp(layer, block, state, hooks)?;
        if let Some(norm) = &block.post_mlp_norm {
            ops::rms_norm_inplace(pool, isa, &mut state.scratch.h, norm, c.norm_eps);
        }
        state.visit(Site::MlpOut, layer, hooks, |s| &mut s.h)?;
        ops::add(pool, isa, &mut state.scratch.x, &state.scratch.h);
        state.visit(Site::ResidPost, layer, hooks, |s| &mut s.x)
    }

    /// Attention of one layer: reads `x`, leaves what the output projection gives in `h`.
    fn attention(
        &self,
        layer: usize,
        tokens: usize,
        state: &mut State<'_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let (block, dim) = (&self.blocks[layer], c.head_dim);
        let a = &block.attention;
        let s = &mut *state.scratch;
        let act = s.activations.get_or_insert_with(Activations::new);
        s.h.resize(tokens * c.hidden, 0.0);
        s.q.resize(tokens * c.q_heads * dim, 0.0);
        s.k.resize(tokens * c.kv_heads * dim, 0.0);
        s.v.resize(tokens * c.kv_heads * dim, 0.0);
        s.z.resize(tokens * c.q_heads * dim, 0.0);

        ops::rms_norm(pool, isa, &s.x, &block.attention_norm, c.norm_eps, &mut s.h);
        act.set(pool, &s.h, c.hidden, isa);
        matmul_many(
            pool,
            act,
            &mut [(&a.q.weight, &mut s.q[..]), (&a.k.weight, &mut s.k[..]), (&a.v.weight, &mut s.v[..])],
        )?;
        for (linear, rows) in [(&a.q, &mut s.q), (&a.k, &mut s.k), (&a.v, &mut s.v)] {
            self.add_bias(linear, rows);
        }
        if let (Some(q_norm), Some(k_norm)) = (&a.q_norm, &a.k_norm) {
            ops::rms_norm_inplace(pool, isa, &mut s.q, q_norm, c.norm_eps);
            ops::rms_norm_inplace(pool, isa, &mut s.k, k_norm, c.norm_eps);
        }
        let how = c.attention[layer];
        let (table, rotated) = (&s.tables[how.rope], c.ropes[how.rope].rotated());
        ops::rope(pool, isa, &mut s.q, dim, &table.cos, &table.sin, rotated);
        ops::rope(pool, isa, &mut s.k, dim, &table.cos, &table.sin, rotated);
        state.visit(Site::Q, layer, hooks, |s| &mut s.q)?;
        state.visit(Site::K, layer, hooks, |s| &mut s.k)?;
        state.visit(Site::V, layer, hooks, |s| &mut s.v)?;

        let s = &mut *state.scratch;
        state.cache.layer_mut(layer).append(&s.positions, &s.k, &s.v);
        let params = AttendParams { scale: c.attention_scale, softcap: c.attention_softcap, window: how.window };
        state.cache.layers()[layer].with_views(|heads| {
            let input = AttendInput { q: &s.q, q_positions: &s.positions, q_heads: c.q_heads, heads, params };
            attend(pool, isa, &input, &mut s.z, None, &mut s.attend)
        })?;
        state.visit(Site::Z, layer, hooks, |s| &mut s.z)?;

        let s = &mut *state.scratch;
        self.project(&a.o, &s.z, &mut s.h, &mut s.activations)
    }

    /// Feed-forward of one layer: reads `x`, leaves what the down projection gives in `h`.
    fn mlp(
        &self,
        layer: usize,
        block: &Block,
        state: &mut State<'_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let s = &mut *state.scratch;
        let act = s.activations.get_or_insert_with(Activations::new);
        let tokens = s.x.len() / c.hidden;
        s.gate.resize(tokens * c.intermediate, 0.0);
        s.up.resize(tokens * c.intermediate, 0.0);
        ops::rms_norm(pool, isa, &s.x, &block.mlp_norm, c.norm_eps, &mut s.h);
        act.set(pool, &s.h, c.hidden, isa);
        let m = &block.mlp;
        matmul_many(pool, act, &mut [(&m.gate.weight, &mut s.gate[..]), (&m.up.weight, &mut s.up[..])])?;
        self.add_bias(&m.gate, &mut s.gate);
        self.add_bias(&m.up, &mut s.up);
        match c.activation {
            Activation::Silu => ops::silu_mul(pool, isa, &mut s.gate, &s.up),
            Activation::GeluTanh => ops::gelu_tanh_mul(pool, isa, &mut s.gate, &s.up),
        }
        state.visit(Site::MlpAct, layer, hooks, |s| &mut s.gate)?;
        let s = &mut *state.scratch;
        self.project(&m.down, &s.gate, &mut s.h, &mut s.activations)
    }

    fn project(
        &self,
        linear: &Linear,
        x: &[f32],
        out: &mut [f32],
        activations: &mut Option<Activations>,
    ) -> Result<(), EngineError> {
        let act = activations.get_or_insert_with(Activations::new);
        act.set(self.pool(), x, linear.weight.cols(), self.isa());
        matmul(self.pool(), act, &linear.weight, out)?;
        self.add_bias(linear, out);
        Ok(())
    }

    fn add_bias(&self, linear: &Linear, rows: &mut [f32]) {
        if let Some(bias) = &linear.bias {
            ops::add_bias(self.pool(), self.isa(), rows, bias);
        }
    }

    /// Final norm and unembedding of the wanted rows, a few at a time.
    fn logits(
        &self,
        piece: &Piece<'_>,
        state: &mut State<'_>,
        hooks: &mut [&mut dyn Hook],
        emit: Emit<'_>,
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let (tokens, layers) = (piece.ids.len(), c.layers);
        let mut from = piece.logits_from;
        while from < tokens {
            let rows = LOGIT_ROWS.min(tokens - from);
            let s = &mut *state.scratch;
            s.h.resize(rows * c.hidden, 0.0);
            let x = &s.x[from * c.hidden..(from + rows) * c.hidden];
            ops::rms_norm(pool, isa, x, &self.final_norm, c.norm_eps, &mut s.h);
            let positions: Vec<u32> = s.positions[from..from + rows].to_vec();
            state.hooks.visit(hooks, (Site::FinalNorm, layers), &positions, &mut s.h)?;
            s.logits.resize(rows * c.vocab, 0.0);
            self.unembed(&s.h, &mut s.logits, &mut s.activations)?;
            state.hooks.visit(hooks, (Site::Logits, layers), &positions, &mut s.logits)?;
            for (row, values) in s.logits.chunks_exact(c.vocab).enumerate() {
                emit(from + row, values)?;
            }
            from += rows;
        }
        Ok(())
    }

    fn unembed(
        &self,
        normed: &[f32],
        logits: &mut [f32],
        activations: &mut Option<Activations>,
    ) -> Result<(), EngineError> {
        let head: &Matrix = &self.head;
        let act = activations.get_or_insert_with(Activations::new);
        act.set(self.pool(), normed, head.cols(), self.isa());
        matmul(self.pool(), act, head, logits)?;
        if let Some(cap) = self.config.final_softcap {
            ops::softcap(self.pool(), self.isa(), logits, cap);
        }
        Ok(())
    }
}

impl State<'_> {
    /// Show one of the buffers to the hooks that want this place.
    fn visit(
        &mut self,
        site: Site,
        layer: usize,
        hooks: &mut [&mut dyn Hook],
        rows: impl FnOnce(&mut Scratch) -> &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        if !self.hooks.wants(site, layer) {
            return Ok(());
        }
        let positions = std::mem::take(&mut self.scratch.positions);
        let result = self.hooks.visit(hooks, (site, layer), &positions, rows(self.scratch));
        self.scratch.positions = positions;
        result
    }
}
