//! One piece of tokens through the model, reading top-down: embed, blocks, logits.
//!
//! For each layer: norm, q k v, rotation, append to the cache, attend, residual; then the press may shrink this
//! layer's cache, so that the peak stays at the budget; then norm, feed-forward, residual. Hooks see each named site.

use meden_kernels::attention::{AttendScratch, HeadView};
use meden_kernels::matmul::{Activations, Matrix, Needs, matmul, matmul_many};
use meden_kernels::ops;

use super::attend::Both;
use super::config::Activation;
use super::rope::RopeTable;
use super::{Block, Linear, Model};
use crate::cache::KvCache;
use crate::error::EngineError;
use crate::hook::{Hook, HookPlan, Site};
use crate::press::plan::{At, Moment, Now, Plan};
use crate::press::watch::Watch;
use crate::read::Reader;
use crate::session::control::{Control, Emit};

/// Buffers that live from piece to piece, so that a decoded token allocates nothing here.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(super) x: Vec<f32>,           // (tokens, hidden): the residual stream
    pub(super) h: Vec<f32>,           // (tokens, hidden): what a sublayer reads, then what it adds
    pub(super) q: Vec<f32>,           // (tokens, q_heads, head_dim)
    pub(super) k: Vec<f32>,           // (tokens, kv_heads, head_dim)
    pub(super) v: Vec<f32>,           // (tokens, kv_heads, head_dim)
    pub(super) z: Vec<f32>,           // (tokens, q_heads, head_dim)
    pub(super) turned: Vec<f32>,      // (tokens of a segment, q_heads, head_dim): queries as they meet turned keys
    pub(super) q_unrotated: Vec<f32>, // (tokens, q_heads, head_dim), where a press asked for it
    pub(super) lse: Vec<f32>,         // (tokens, q_heads), where a press asked for it
    pub(super) gate: Vec<f32>,        // (tokens, intermediate)
    pub(super) up: Vec<f32>,          // (tokens, intermediate)
    pub(super) logits: Vec<f32>,      // (rows, vocab)
    pub(super) positions: Vec<u32>,
    pub(super) wanted: Vec<usize>, // rows whose logits are wanted
    pub(super) wanted_positions: Vec<u32>,
    pub(super) tables: Vec<RopeTable>,
    pub(super) activations: Option<Activations>,
    pub(super) attend: AttendScratch,
    pub(super) views: Vec<HeadView<'static>>, // empty between calls
    pub(super) both: Both,
}

/// Rows of logits computed at a time, so that a long text with a large vocabulary needs little memory.
const LOGIT_ROWS: usize = 32;

/// The tokens of one session in a pass, and what of the session they touch.
pub(crate) struct Segment<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Tokens seen before.
    pub seen: usize,
    /// Position of the first token: tokens seen, less what a press that renumbers took away.
    pub first: usize,
    /// Which moment of the session this is, for the press.
    pub moment: Moment,
    /// Tokens of the same call that later passes read.
    pub later: usize,
    /// First row whose logits are wanted (`ids.len()` for none).
    pub logits_from: usize,
    /// Where keys and values go.
    pub cache: &'a mut KvCache,
    /// What keeps the cache small.
    pub plan: Option<&'a mut Plan>,
    /// What reads less than the whole cache; only where the segment is one decoded token.
    pub reader: Option<&'a mut Reader>,
    /// What is gathered for presses.
    pub watch: &'a mut Watch,
}

impl Segment<'_> {
    fn now<'m>(&self, model: &'m Model, long_rope: bool) -> Now<'m> {
        let seen = self.seen + self.ids.len();
        Now { model, at: At { moment: self.moment, seen, until: seen + self.later }, long_rope }
    }
}

/// One pass of the model over the tokens of one or more sessions, whose rows follow each other: weights are read once
/// for all, attention and presses stay with each session. No row depends on the others in the pass.
pub(crate) struct Pass<'a, 's> {
    /// The sessions, in the order of their rows.
    pub segments: &'a mut [Segment<'s>],
    /// Rotate with the long factors where the model has them.
    pub long_rope: bool,
    /// Buffers.
    pub scratch: &'a mut Scratch,
    /// Who looks.
    pub hooks: &'a mut HookPlan,
}

impl Model {
    /// Run a pass. `emit` is told each wanted row of logits with its number among all rows of the pass. On an error
    /// the caller has to take the pass's tokens out of the caches again.
    pub(crate) fn run(
        &self,
        pass: &mut Pass<'_, '_>,
        control: &mut Control<'_>,
        emit: Emit<'_>,
    ) -> Result<(), EngineError> {
        self.embed(pass)?;
        for segment in &mut *pass.segments {
            if let Some(reader) = segment.reader.as_deref_mut() {
                reader.begin();
            }
        }
        for layer in 0..pass.hooks.depth() {
            if control.cancelled() {
                let total = pass.scratch.positions.len();
                return Err(EngineError::Cancelled { done: 0, total, pressed_layers: 0 });
            }
            self.block(layer, pass, &mut control.hooks)?;
        }
        for segment in &mut *pass.segments {
            let next = (segment.first + segment.ids.len()) as u32;
            for layer in 0..self.config.layers {
                segment.cache.layer_mut(layer).slide(next);
            }
            let now = segment.now(self, pass.long_rope);
            if let Some(plan) = segment.plan.as_deref_mut() {
                plan.act_on_cache(segment.cache, &now, segment.watch)?;
                plan.settle(segment.cache, &now)?;
            }
        }
        if pass.hooks.depth() < self.config.layers {
            return Ok(()); // nobody looks further, and what was read is thrown away
        }
        self.logits(pass, &mut control.hooks, emit)
    }

    fn embed(&self, pass: &mut Pass<'_, '_>) -> Result<(), EngineError> {
        let (s, hidden) = (&mut *pass.scratch, self.config.hidden);
        s.positions.clear();
        for segment in &*pass.segments {
            s.positions.extend((0..segment.ids.len()).map(|t| (segment.first + t) as u32));
        }
        s.tables.resize_with(self.config.ropes.len(), RopeTable::default);
        for (rope, table) in self.config.ropes.iter().zip(&mut s.tables) {
            rope.fill(&s.positions, pass.long_rope, table);
        }
        s.x.resize(s.positions.len() * hidden, 0.0);
        let ids = pass.segments.iter().flat_map(|segment| segment.ids);
        for (&id, row) in ids.zip(s.x.chunks_exact_mut(hidden)) {
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

    fn block(&self, layer: usize, pass: &mut Pass<'_, '_>, hooks: &mut [&mut dyn Hook]) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let block = &self.blocks[layer];
        pass.visit(Site::ResidPre, layer, hooks, |s| &mut s.x)?;

        self.attention(layer, pass, hooks)?;
        for segment in &mut *pass.segments {
            let now = segment.now(self, pass.long_rope);
            if let Some(plan) = segment.plan.as_deref_mut() {
                plan.act(layer, segment.cache.layer_mut(layer), &now, &segment.watch.layers()[layer])?;
            }
        }
        if let Some(norm) = &block.post_attention_norm {
            ops::rms_norm_inplace(pool, isa, &mut pass.scratch.h, norm, c.norm_eps);
        }
        pass.visit(Site::AttnOut, layer, hooks, |s| &mut s.h)?;
        ops::add(pool, isa, &mut pass.scratch.x, &pass.scratch.h);
        pass.visit(Site::ResidMid, layer, hooks, |s| &mut s.x)?;

        self.mlp(layer, block, pass, hooks)?;
        if let Some(norm) = &block.post_mlp_norm {
            ops::rms_norm_inplace(pool, isa, &mut pass.scratch.h, norm, c.norm_eps);
        }
        pass.visit(Site::MlpOut, layer, hooks, |s| &mut s.h)?;
        ops::add(pool, isa, &mut pass.scratch.x, &pass.scratch.h);
        pass.visit(Site::ResidPost, layer, hooks, |s| &mut s.x)
    }

    /// Feed-forward of one layer: reads `x`, leaves what the down projection gives in `h`.
    fn mlp(
        &self,
        layer: usize,
        block: &Block,
        pass: &mut Pass<'_, '_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let s = &mut *pass.scratch;
        let act = s.activations.get_or_insert_with(Activations::new);
        let tokens = s.x.len() / c.hidden;
        s.gate.resize(tokens * c.intermediate, 0.0);
        s.up.resize(tokens * c.intermediate, 0.0);
        let m = &block.mlp;
        let needs = Needs::of(&[&m.gate.weight, &m.up.weight]);
        if pass.hooks.wants(Site::MlpNorm, layer) {
            // the same bits, written out
            ops::rms_norm(pool, isa, &s.x, &block.mlp_norm, c.norm_eps, &mut s.h);
            pass.visit(Site::MlpNorm, layer, hooks, |s| &mut s.h)?;
            let s = &mut *pass.scratch;
            s.activations.get_or_insert_with(Activations::new).set_for(pool, &s.h, c.hidden, isa, needs);
        } else {
            act.set_normed(pool, &s.x, (&block.mlp_norm, c.norm_eps), isa, needs);
        }
        let s = &mut *pass.scratch;
        let act = s.activations.get_or_insert_with(Activations::new);
        matmul_many(pool, act, &mut [(&m.gate.weight, &mut s.gate[..]), (&m.up.weight, &mut s.up[..])])?;
        self.add_bias(&m.gate, &mut s.gate);
        self.add_bias(&m.up, &mut s.up);
        pass.visit(Site::MlpGate, layer, hooks, |s| &mut s.gate)?;
        pass.visit(Site::MlpUp, layer, hooks, |s| &mut s.up)?;
        let s = &mut *pass.scratch;
        match c.activation {
            Activation::Silu => ops::silu_mul(pool, isa, &mut s.gate, &s.up),
            Activation::GeluTanh => ops::gelu_tanh_mul(pool, isa, &mut s.gate, &s.up),
        }
        pass.visit(Site::MlpAct, layer, hooks, |s| &mut s.gate)?;
        let s = &mut *pass.scratch;
        self.project(&m.down, &s.gate, &mut s.h, &mut s.activations)
    }

    pub(super) fn project(
        &self,
        linear: &Linear,
        x: &[f32],
        out: &mut [f32],
        activations: &mut Option<Activations>,
    ) -> Result<(), EngineError> {
        let act = activations.get_or_insert_with(Activations::new);
        act.set_for(self.pool(), x, linear.weight.cols(), self.isa(), Needs::of(&[&linear.weight]));
        matmul(self.pool(), act, &linear.weight, out)?;
        self.add_bias(linear, out);
        Ok(())
    }

    pub(super) fn add_bias(&self, linear: &Linear, rows: &mut [f32]) {
        if let Some(bias) = &linear.bias {
            ops::add_bias(self.pool(), self.isa(), rows, bias);
        }
    }

    /// Final norm and unembedding of the wanted rows, a few at a time.
    fn logits(&self, pass: &mut Pass<'_, '_>, hooks: &mut [&mut dyn Hook], emit: Emit<'_>) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let mut wanted = std::mem::take(&mut pass.scratch.wanted);
        wanted.clear();
        let mut first = 0;
        for segment in &*pass.segments {
            wanted.extend(first + segment.logits_from..first + segment.ids.len());
            first += segment.ids.len();
        }
        for (piece, rows) in wanted.chunks(LOGIT_ROWS).enumerate() {
            pass.hooks.logits_from(piece * LOGIT_ROWS);
            let s = &mut *pass.scratch;
            s.h.clear();
            s.wanted_positions.clear();
            for &row in rows {
                s.h.extend_from_slice(&s.x[row * c.hidden..(row + 1) * c.hidden]);
                s.wanted_positions.push(s.positions[row]);
            }
            ops::rms_norm_inplace(pool, isa, &mut s.h, &self.final_norm, c.norm_eps);
            pass.hooks.visit(hooks, (Site::FinalNorm, c.layers), &s.wanted_positions, &mut s.h)?;
            s.logits.resize(rows.len() * c.vocab, 0.0);
            self.unembed(&s.h, &mut s.logits, &mut s.activations)?;
            pass.hooks.visit(hooks, (Site::Logits, c.layers), &s.wanted_positions, &mut s.logits)?;
            for (&row, values) in rows.iter().zip(s.logits.chunks_exact(c.vocab)) {
                emit(row, values)?;
            }
        }
        pass.scratch.wanted = wanted;
        Ok(())
    }

    /// Logits of rows behind the final norm, soft cap included.
    pub(super) fn unembed(
        &self,
        normed: &[f32],
        logits: &mut [f32],
        activations: &mut Option<Activations>,
    ) -> Result<(), EngineError> {
        let head: &Matrix = &self.head;
        let act = activations.get_or_insert_with(Activations::new);
        act.set_for(self.pool(), normed, head.cols(), self.isa(), Needs::of(&[head]));
        matmul(self.pool(), act, head, logits)?;
        if let Some(cap) = self.config.final_softcap {
            ops::softcap(self.pool(), self.isa(), logits, cap);
        }
        Ok(())
    }
}

impl Pass<'_, '_> {
    /// Show one of the buffers to the hooks that want this place.
    pub(super) fn visit(
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
