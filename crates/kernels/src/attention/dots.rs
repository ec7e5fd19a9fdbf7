//! The decode path's inner loop: one run of slots of one head against all its query rows, tile by tile.
//!
//! Up to [`BLOCK`] rows go through a run together. A tile is a few pages' worth of slots: its keys give logits
//! (`keys`), the softmax turns them into weights, its values are added up (`values`). Stored numbers are converted as
//! they are loaded and never written back. While a tile is worked on, the next one's memory is asked for row by row:
//! without that, reading and computing would take turns.

use super::channels::Folded;
use super::decode::{BLOCK, STATE};
use super::keys::{Queries, logits};
use super::rows::{Piece, Pieces, Walk};
use super::simd::*;
use super::softmax::{Softmax, soften};
use super::values::mix;
use super::{HeadView, KvType};
use std::ops::Range;

/// One task: `slots` of `head` against rows `(m, group)`.
pub(super) struct RunJob<'a> {
    pub head: &'a HeadView<'a>,
    /// Scaled, in blocks of up to [`BLOCK`] rows: (blocks, key_width / 8, rows of the block, 8).
    pub queries: &'a [f32],
    /// (m): what each query sees.
    pub ranges: &'a [Range<usize>],
    pub group: usize,
    pub slots: Range<usize>,
    pub softcap: Option<f32>,
}

/// Slots that are worked on together: with 64 channels of f16 a tile and the next one share the first-level cache.
pub(super) const TILE: usize = 16;

/// Logits, then weights, of one row against a tile; the slack takes whole vectors behind the last slot.
pub(super) type Weights = [f32; TILE + 8];

/// Writes (rows, value_width + STATE): for each row its unnormalised output, its largest logit and its sum.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run(job: &RunJob, partial: &mut [f32]) {
    let rows = job.ranges.len() * job.group;
    let stride = partial.len() / rows;
    for (block, out) in partial.chunks_mut(BLOCK * stride).enumerate() {
        match out.len() / stride {
            1 => rows_of::<1>(job, BLOCK * block, out),
            2 => rows_of::<2>(job, BLOCK * block, out),
            3 => rows_of::<3>(job, BLOCK * block, out),
            _ => rows_of::<4>(job, BLOCK * block, out),
        }
    }
}

/// Rows `first .. first + R`.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows_of<const R: usize>(job: &RunJob, first: usize, out: &mut [f32]) {
    let width = job.head.layout.key_dim().next_multiple_of(8);
    let stride = out.len() / R;
    let queries = job.queries[first * width..][..R * width].as_chunks::<8>().0.as_chunks::<R>().0;
    let mut softmax = Softmax::default();
    let mut weights = [[0.0; TILE + 8]; R];
    let mut folded = job.head.layout.key_type().is_by_channel().then(|| (Folded::new(), None));

    let mut walk = Walk::new(job.head, job.slots.clone());
    let mut tile = walk.tile(TILE);
    let mut start = job.slots.start;
    while tile.slots > 0 {
        let next = walk.tile(TILE);
        match &mut folded {
            None => weigh::<R>(job.head, queries, (&tile, &next), &mut weights),
            Some(folded) => weigh_codes::<R>(job.head, queries, (&tile, &next), folded, &mut weights),
        }
        let slots = start..start + tile.slots;
        let mut seen: [Range<usize>; R] = std::array::from_fn(|_| 0..0);
        for (r, seen) in seen.iter_mut().enumerate() {
            let range = &job.ranges[(first + r) / job.group];
            let clip = |slot: usize| slot.clamp(slots.start, slots.end) - slots.start;
            *seen = clip(range.start)..clip(range.end);
        }
        let decay = soften::<R, _>(&mut softmax, &mut weights, tile.slots, &seen, job.softcap);
        gather::<R>(job.head, (&tile, &next), (&weights, &decay), out);
        start = slots.end;
        tile = next;
    }
    for r in 0..R {
        let at = r * stride + stride - STATE;
        (out[at], out[at + 1]) = softmax.total(r);
    }
}

/// The logits of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn weigh<const R: usize>(
    head: &HeadView,
    queries: &[[[f32; 8]; R]],
    (tile, next): (&Pieces, &Pieces),
    weights: &mut [Weights; R],
) {
    let part = head.layout.key_part();
    // Rows of q4 are filled up to whole vectors.
    let queries = Queries::new(queries, if part.kind == KvType::Q4 { part.dim.next_multiple_of(8) } else { part.dim });
    let mut at = 0;
    for (i, piece) in tile.iter().enumerate() {
        let rows = piece.rows(&part);
        let ahead = next.get(i).unwrap_or(piece).address(&part);
        match part.kind {
            KvType::F32 => logits::<F32, R>(&rows, ahead, &queries, weights, at),
            KvType::F16 => logits::<F16, R>(&rows, ahead, &queries, weights, at),
            KvType::Q8 => logits::<Q8, R>(&rows, ahead, &queries, weights, at),
            KvType::Q4 | KvType::Q4c => logits::<Q4, R>(&rows, ahead, &queries, weights, at),
        }
        at += piece.count;
    }
}

/// The same for keys by channel, whose page's table has gone into the queries.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn weigh_codes<'a, const R: usize>(
    head: &HeadView,
    queries: &[[[f32; 8]; R]],
    (tile, next): (&Pieces<'a>, &Pieces<'a>),
    (folded, page): &mut (Folded<R>, Option<Piece<'a>>),
    weights: &mut [Weights; R],
) {
    let part = head.layout.key_part();
    let mut at = 0;
    for (i, piece) in tile.iter().enumerate() {
        let ahead = next.get(i).unwrap_or(piece).address(&part);
        if !page.as_ref().is_some_and(|page| page.shares_page(piece)) {
            folded.fold(queries, piece, &part);
            *page = Some(*piece);
        }
        let width = part.dim.next_multiple_of(8);
        let codes = Queries::new(folded.queries(width / 8), width);
        logits::<Q4, R>(&piece.codes(&part), ahead, &codes, weights, at);
        for (weights, offset) in weights.iter_mut().zip(folded.offsets()) {
            weights[at..at + piece.count].iter_mut().for_each(|x| *x += offset);
        }
        at += piece.count;
    }
}

/// The weighted values of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn gather<const R: usize>(
    head: &HeadView,
    (tile, next): (&Pieces, &Pieces),
    weights: (&[Weights; R], &[f32; 8]),
    out: &mut [f32],
) {
    if out.len() == R * STATE {
        return; // values are not asked for
    }
    let part = head.layout.value_part();
    let mut rows = [(Default::default(), 0); Pieces::MOST];
    for (i, (to, piece)) in rows.iter_mut().zip(tile.iter()).enumerate() {
        *to = (piece.rows(&part), next.get(i).unwrap_or(piece).address(&part));
    }
    let rows = &rows[..tile.iter().len()];
    match part.kind {
        KvType::F32 => mix::<F32, R>(rows, weights, out),
        KvType::F16 => mix::<F16, R>(rows, weights, out),
        KvType::Q8 => mix::<Q8, R>(rows, weights, out),
        // values are never by channel: see `PageLayout::new`
        KvType::Q4 | KvType::Q4c => mix::<Q4, R>(rows, weights, out),
    }
}
