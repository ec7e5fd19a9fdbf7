//! Decode, first half: queries against the keys of a page, two keys at a time.

// Registers are arrays here, and rows and vectors are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

use super::dots::Weights;
use super::rows::{Rows, ask};
use super::simd::*;
use std::arch::x86_64::*;

/// Eight channels of each of R queries for each vector of a key.
pub(super) struct Queries<'a, const R: usize> {
    /// Four vectors at a time, which is a group with one scale.
    groups: &'a [[[[f32; 8]; R]; 4]],
    /// The whole vectors left over.
    rest: &'a [[[f32; 8]; R]],
    /// The vector that a width which is no multiple of eight begins.
    tail: Option<&'a [[f32; 8]; R]>,
    /// Whether there is anything but groups.
    odd: bool,
}

impl<'a, const R: usize> Queries<'a, R> {
    pub fn new(queries: &'a [[[f32; 8]; R]], dim: usize) -> Queries<'a, R> {
        let (groups, rest) = queries[..dim / 8].as_chunks::<4>();
        Queries { groups, rest, tail: queries.get(dim / 8), odd: !dim.is_multiple_of(32) }
    }

    fn whole_vectors(&self) -> usize {
        4 * self.groups.len() + self.rest.len()
    }
}

/// `weights[r][at + slot] = query r · key slot` for the slots of one page; memory from `ahead` on is asked for.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn logits<const B: usize, const R: usize>(
    rows: &Rows,
    ahead: usize,
    queries: &Queries<R>,
    weights: &mut [Weights; R],
    at: usize,
) {
    assert!(rows.data.len() == rows.count * rows.row_bytes && rows.row_bytes / B == queries.whole_vectors());
    // Widths in whole groups are the rule; leaving the other cases out keeps more of the loop in registers.
    if queries.odd {
        eight_by_eight::<B, R, false>(rows, ahead, queries, (weights, at));
    } else {
        eight_by_eight::<B, R, true>(rows, ahead, queries, (weights, at));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight_by_eight<const B: usize, const R: usize, const WHOLE: bool>(
    rows: &Rows,
    ahead: usize,
    queries: &Queries<R>,
    (weights, at): (&mut [Weights; R], usize),
) {
    for base in (0..rows.count).step_by(8) {
        let ahead = ahead + base * rows.row_bytes;
        let two = |i: usize| {
            // Behind the last slot it is repeated; what comes of it is overwritten or masked.
            let slots = [base + i, base + i + 1].map(|slot| slot.min(rows.count - 1));
            // In the order of addresses: the hardware's own prefetcher takes that up.
            ask(ahead + i * rows.row_bytes, 2 * rows.row_bytes);
            // SAFETY: both slots are below the count, and `logits` has checked the sizes.
            unsafe { two_keys::<B, R, WHOLE>(rows, slots, queries) }
        };
        let pairs = [two(0), two(2), two(4), two(6)];
        for r in 0..R {
            if let Some(to) = weights[r][at + base..].first_chunk_mut() {
                store(to, sums_of_pairs(&[pairs[0][r], pairs[1][r], pairs[2][r], pairs[3][r]]));
            }
        }
    }
}

/// The products of two keys with each query, half summed: see [`sums_of_pairs`].
///
/// # Safety
/// Both slots must be below `rows.count`, `rows.data` must hold that many rows, and `queries` be of a row's width.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn two_keys<const B: usize, const R: usize, const WHOLE: bool>(
    rows: &Rows,
    slots: [usize; 2],
    queries: &Queries<R>,
) -> [__m256; R] {
    // SAFETY: slot < count, so its row starts inside the data.
    let keys = slots.map(|slot| unsafe { rows.data.as_ptr().add(slot * rows.row_bytes).cast::<[u8; B]>() });
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (group, queries) in queries.groups.iter().enumerate() {
        let scales = [rows.scale::<B>(slots[0], group), rows.scale::<B>(slots[1], group)];
        for (i, q) in queries.iter().enumerate() {
            // SAFETY: `queries` has a vector for each whole vector of a row, so these are inside the two rows.
            let (a, b) = unsafe { (&*keys[0].add(4 * group + i), &*keys[1].add(4 * group + i)) };
            add_products(&mut sums, q, [load_scaled(a, scales[0]), load_scaled(b, scales[1])]);
        }
    }
    if !WHOLE {
        let (group, whole) = (queries.groups.len(), queries.whole_vectors());
        let scales = [rows.scale::<B>(slots[0], group), rows.scale::<B>(slots[1], group)];
        for (i, q) in queries.rest.iter().enumerate() {
            // SAFETY: as above.
            let (a, b) = unsafe { (&*keys[0].add(4 * group + i), &*keys[1].add(4 * group + i)) };
            add_products(&mut sums, q, [load_scaled(a, scales[0]), load_scaled(b, scales[1])]);
        }
        if let Some(q) = queries.tail {
            let [a, b] = slots.map(|slot| &rows.row(slot).0[whole * B..]);
            add_products(&mut sums, q, [load_tail::<B>(a, scales[0]), load_tail::<B>(b, scales[1])]);
        }
    }
    let mut halves = [_mm256_setzero_ps(); R];
    for r in 0..R {
        halves[r] = pair(sums[r][0], sums[r][1]);
    }
    halves
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_products<const R: usize>(sums: &mut [[__m256; 2]; R], q: &[[f32; 8]; R], keys: [__m256; 2]) {
    for r in 0..R {
        let q = load(&q[r]);
        sums[r] = [_mm256_fmadd_ps(q, keys[0], sums[r][0]), _mm256_fmadd_ps(q, keys[1], sums[r][1])];
    }
}
