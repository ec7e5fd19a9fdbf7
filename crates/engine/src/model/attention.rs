//! Attention of one layer: queries, keys and values of all rows at once, then each session over its own cache.

use std::ops::Range;

use meden_kernels::attention::{AttendInput, AttendParams, HeadView, attend};
use meden_kernels::matmul::{Activations, Needs, matmul_many};
use meden_kernels::ops;

use super::Model;
use super::attend::Queries;
use super::forward::{Pass, Scratch, Segment};
use crate::error::EngineError;
use crate::hook::{Hook, Site};
use crate::press::watch::Piece;
use crate::reuse::reuse;

impl Model {
    /// Attention of one layer: reads `x`, leaves what the output projection gives in `h`.
    pub(super) fn attention(
        &self,
        layer: usize,
        pass: &mut Pass<'_, '_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        self.queries_keys_values(layer, pass, hooks)?;
        pass.visit(Site::Q, layer, hooks, |s| &mut s.q)?;
        pass.visit(Site::K, layer, hooks, |s| &mut s.k)?;
        pass.visit(Site::V, layer, hooks, |s| &mut s.v)?;
        self.rotate(layer, pass);
        pass.visit(Site::QRot, layer, hooks, |s| &mut s.q)?;
        pass.visit(Site::KRot, layer, hooks, |s| &mut s.k)?;
        let mut first = 0;
        for segment in &mut *pass.segments {
            let rows = first..first + segment.ids.len();
            first = rows.end;
            self.attend_segment(layer, segment, rows.clone(), pass.scratch)?;
            self.observe(layer, segment, rows, pass.scratch)?;
        }
        pass.visit(Site::Z, layer, hooks, |s| &mut s.z)?;
        let s = &mut *pass.scratch;
        self.project(&self.blocks[layer].attention.o, &s.z, &mut s.h, &mut s.activations)
    }

    /// From the residual stream to queries, keys and values.
    fn queries_keys_values(
        &self,
        layer: usize,
        pass: &mut Pass<'_, '_>,
        hooks: &mut [&mut dyn Hook],
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let (block, dim) = (&self.blocks[layer], c.head_dim);
        let a = &block.attention;
        let s = &mut *pass.scratch;
        let tokens = s.positions.len();
        let act = s.activations.get_or_insert_with(Activations::new);
        s.h.resize(tokens * c.hidden, 0.0);
        s.q.resize(tokens * c.q_heads * dim, 0.0);
        s.k.resize(tokens * c.kv_heads * dim, 0.0);
        s.v.resize(tokens * c.kv_heads * dim, 0.0);
        s.z.resize(tokens * c.q_heads * dim, 0.0);

        let needs = Needs::of(&[&a.q.weight, &a.k.weight, &a.v.weight]);
        let (norm, seen) = ((&block.attention_norm[..], c.norm_eps), pass.hooks.wants(Site::AttnNorm, layer));
        if !seen && !pass.segments.iter().any(|segment| segment.watch.wants_hidden()) {
            act.set_normed(pool, &s.x, norm, isa, needs);
        } else {
            // a press or a hook wants the normed rows too: the same bits, written out
            ops::rms_norm(pool, isa, &s.x, norm.0, norm.1, &mut s.h);
            pass.visit(Site::AttnNorm, layer, hooks, |s| &mut s.h)?;
            let s = &mut *pass.scratch;
            s.activations.get_or_insert_with(Activations::new).set_for(pool, &s.h, c.hidden, isa, needs);
        }
        let s = &mut *pass.scratch;
        let act = s.activations.get_or_insert_with(Activations::new);
        matmul_many(
            pool,
            act,
            &mut [(&a.q.weight, &mut s.q[..]), (&a.k.weight, &mut s.k[..]), (&a.v.weight, &mut s.v[..])],
        )?;
        for (linear, rows) in [(&a.q, &mut s.q), (&a.k, &mut s.k), (&a.v, &mut s.v)] {
            self.add_bias(linear, rows);
        }
        Ok(())
    }

    /// Norm of each head where the family has one, and rotation.
    fn rotate(&self, layer: usize, pass: &mut Pass<'_, '_>) {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let (a, dim, s) = (&self.blocks[layer].attention, c.head_dim, &mut *pass.scratch);
        if let (Some(q_norm), Some(k_norm)) = (&a.q_norm, &a.k_norm) {
            ops::rms_norm_inplace(pool, isa, &mut s.q, q_norm, c.norm_eps);
            ops::rms_norm_inplace(pool, isa, &mut s.k, k_norm, c.norm_eps);
        }
        if pass.segments.iter().any(|segment| segment.watch.wants_unrotated()) {
            s.q_unrotated.clone_from(&s.q);
        }
        let rope = c.attention[layer].rope;
        let (table, rotated) = (&s.tables[rope], c.ropes[rope].rotated());
        ops::rope(pool, isa, &mut s.q, dim, &table.cos, &table.sin, rotated);
        ops::rope(pool, isa, &mut s.k, dim, &table.cos, &table.sin, rotated);
    }

    /// Append the rows of one session to its cache and attend over it, into `z`.
    fn attend_segment(
        &self,
        layer: usize,
        segment: &mut Segment<'_>,
        rows: Range<usize>,
        s: &mut Scratch,
    ) -> Result<(), EngineError> {
        let (pool, isa, c) = (self.pool(), self.isa(), &self.config);
        let params =
            AttendParams { scale: c.attention_scale, softcap: c.attention_softcap, window: c.attention[layer].window };
        let of = |width: usize| rows.start * width..rows.end * width;
        let (q_width, kv_width) = (c.q_heads * c.head_dim, c.kv_heads * c.head_dim);
        let q_positions = &s.positions[rows.clone()];
        segment.cache.layer_mut(layer).append(q_positions, &s.k[of(kv_width)], &s.v[of(kv_width)]);
        let (q, z) = (&s.q[of(q_width)], &mut s.z[of(q_width)]);
        let rotation = segment.cache.rotation();
        s.turned.clear();
        if let Some(rotation) = rotation {
            s.turned.extend_from_slice(q);
            rotation.turn_all((pool, isa), &mut s.turned, c.head_dim);
        }
        // as they meet the stored keys
        let meeting = if rotation.is_some() { &s.turned[..] } else { q };
        s.lse.clear();
        if segment.watch.wants_lse(layer) {
            s.lse.resize(rows.len() * c.q_heads, 0.0);
        }
        let lse = (!s.lse.is_empty()).then_some(&mut s.lse[..]);
        if let Some(narrow) = segment.cache.layers()[layer].narrow() {
            // neither turned keys nor a reader of some pages come together with narrow keys
            let queries = Queries { rows: q, positions: q_positions, params };
            let cache = &segment.cache.layers()[layer];
            self.attend_both((cache, narrow), &queries, (z, lse), &mut s.attend, &mut s.both)?;
            return Ok(());
        }
        // mass by column is about every slot
        let whole = lse.is_some();
        let read = |heads: &[HeadView<'_>]| {
            let input = AttendInput { q: meeting, q_positions, q_heads: c.q_heads, heads, params };
            attend(pool, isa, &input, &mut *z, lse, &mut s.attend)
        };
        match segment.reader.as_deref_mut() {
            Some(reader) if !whole => {
                reader.with_views(layer, segment.cache.layer_mut(layer), (isa, meeting), read)?;
            }
            reader => {
                if let Some(reader) = reader {
                    reader.dense(&segment.cache.layers()[layer]);
                }
                let mut heads = reuse(std::mem::take(&mut s.views));
                heads.extend(segment.cache.layers()[layer].views());
                let attended = read(&heads);
                s.views = reuse(heads);
                attended?;
            }
        }
        if let Some(rotation) = rotation {
            rotation.turn_all((pool, isa), z, c.head_dim);
        }
        Ok(())
    }

    /// Show what was read to the presses that gather.
    fn observe(
        &self,
        layer: usize,
        segment: &mut Segment<'_>,
        rows: Range<usize>,
        s: &Scratch,
    ) -> Result<(), EngineError> {
        if segment.watch.is_idle() {
            return Ok(());
        }
        let c = &self.config;
        let of = |width: usize| rows.start * width..rows.end * width;
        let q_width = c.q_heads * c.head_dim;
        let q = &s.q[of(q_width)];
        let unrotated = if segment.watch.wants_unrotated() { of(q_width) } else { 0..0 };
        let hidden = if segment.watch.wants_hidden() { of(c.hidden) } else { 0..0 };
        let piece = Piece {
            model: self,
            layer,
            positions: &s.positions[rows.clone()],
            hidden: &s.h[hidden],
            residual: &s.x[of(c.hidden)],
            q_unrotated: &s.q_unrotated[unrotated],
            q,
            q_meeting: if s.turned.is_empty() { q } else { &s.turned },
            lse: &s.lse,
        };
        segment.watch.observe(&piece, segment.cache.layer_mut(layer))
    }
}
