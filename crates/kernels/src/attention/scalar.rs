//! The plain twin of the vector paths: one query, one head, one slot at a time, no `unsafe`.
//!
//! It is the path of processors without AVX2 and the judge in the tests, so it stays three loops that can be read.

use super::columns::{Columns, Reduce};
use super::{AttendInput, AttendParams, AttendScratch, HeadView, Shape, visible};
use crate::pool::Pool;

/// See [`super::attend`]; lengths have been checked.
pub(super) fn attend(
    pool: &Pool,
    input: &AttendInput,
    shape: &Shape,
    (out, lse): (&mut [f32], Option<&mut [f32]>),
    scratch: &mut AttendScratch,
) {
    let (q_heads, key_dim, value_dim) = (input.q_heads, shape.key_dim, shape.value_dim);
    let outs = q_heads * value_dim;
    if shape.m == 0 || q_heads == 0 {
        return;
    }
    // One stripe a query: its outputs, its lse, and room for one key and one value.
    let stripe = outs + q_heads + key_dim + value_dim;
    scratch.floats.clear();
    scratch.floats.resize(shape.m * stripe, 0.0);
    pool.chunks(&mut scratch.floats, stripe, |i, stripe| {
        let (outs, rest) = stripe.split_at_mut(outs);
        let (lses, rest) = rest.split_at_mut(q_heads);
        let (key, value) = rest.split_at_mut(key_dim);
        for h in 0..q_heads {
            let head = &input.heads[h / shape.group];
            let at = (i * q_heads + h) * key_dim;
            let query = Query { values: &input.q[at..at + key_dim], position: input.q_positions[i] };
            let row = &mut outs[h * value_dim..][..value_dim];
            lses[h] = attend_one(&query, head, input, (key, value), row);
        }
    });
    for (i, stripe) in scratch.floats.chunks_exact(stripe).enumerate() {
        out[i * outs..][..outs].copy_from_slice(&stripe[..outs]);
    }
    if let Some(lse) = lse {
        for (i, stripe) in scratch.floats.chunks_exact(stripe).enumerate() {
            lse[i * q_heads..][..q_heads].copy_from_slice(&stripe[outs..][..q_heads]);
        }
    }
}

struct Query<'a> {
    values: &'a [f32],
    position: u32,
}

/// One query against one head; returns the log of the sum of exponentials. Two passes, so that the largest logit is
/// known before the first exponential and no logit has to be stored.
fn attend_one(
    query: &Query,
    head: &HeadView,
    input: &AttendInput,
    (key, value): (&mut [f32], &mut [f32]),
    out: &mut [f32],
) -> f32 {
    let params = &input.params;
    let slots = visible(head.positions, query.position, params.window);
    out.fill(0.0);
    if slots.is_empty() {
        return f32::NEG_INFINITY;
    }
    let mut logit = |slot: usize| {
        let (page, at) = head.place(slot);
        head.layout.read_key(head.pages[page], at, key);
        params.logit(query.values, key)
    };
    let largest = slots.clone().map(&mut logit).fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for slot in slots {
        let weight = (logit(slot) - largest).exp();
        total += weight;
        if out.is_empty() {
            continue; // only the sum is asked for
        }
        let (page, at) = head.place(slot);
        head.layout.read_value(head.pages[page], at, value);
        for (o, v) in out.iter_mut().zip(&*value) {
            *o += weight * v;
        }
    }
    for o in out.iter_mut() {
        *o /= total;
    }
    largest + total.ln()
}

impl AttendParams {
    fn logit(&self, query: &[f32], key: &[f32]) -> f32 {
        let dot: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
        match self.softcap {
            Some(cap) => cap * (dot * self.scale / cap).tanh(),
            None => dot * self.scale,
        }
    }
}

/// See [`super::attention_columns`]; lengths have been checked. A thread has a row of columns to itself.
pub(super) fn columns(pool: &Pool, columns: &Columns, shape: &Shape, out: &mut [Vec<f32>]) {
    let (input, dim) = (columns.input, shape.key_dim);
    pool.chunks(out, 1, |h, rows| {
        let head = &input.heads[h / shape.group];
        let mut key = vec![0.0; dim];
        for (i, &position) in input.q_positions.iter().enumerate() {
            let row = i * input.q_heads + h;
            let factor = columns.weights.map_or(1.0, |w| w[i]);
            for slot in visible(head.positions, position, input.params.window) {
                let (page, at) = head.place(slot);
                head.layout.read_key(head.pages[page], at, &mut key);
                let logit = input.params.logit(&input.q[row * dim..][..dim], &key);
                let mass = factor * (logit - columns.lse[row]).exp();
                for out in rows.iter_mut().map(|row| &mut row[slot]) {
                    *out = match columns.reduce {
                        Reduce::Max if !out.is_nan() && !mass.is_nan() => out.max(mass),
                        _ => *out + mass,
                    };
                }
            }
        }
    });
}
