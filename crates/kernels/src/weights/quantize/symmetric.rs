//! Formats whose runs have one signed scale: `d * s * level`.
//!
//! Each run is first fitted alone: the value of largest magnitude is put at, or near, the far end of the levels, the
//! others are rounded, the scale that suits these levels best follows in closed form, and the place with the least
//! weighted error wins. Then the runs' scales are packed, and rounding and refitting take turns on the whole block.
//!
//! The runs of a block, or several blocks of one run, go side by side, one in each lane of the vectors (see [`Side`]).

// Lanes go by number: a loop walks several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use half::f16;

use super::search::{BLOCK, LANES, Lanes, Scaled, Side, inverse_of, low_byte, nearest, side_by_side};

/// The levels that a format's integers stand for.
pub(super) trait Levels {
    /// The level of largest magnitude.
    const END: f32;
    /// How far from it the largest value is put, either way, in levels' units.
    const SPREAD: f32;
    /// The nearest level.
    fn nearest(v: f32) -> f32;
}

/// `-HALF ..= HALF - 1`.
pub(super) struct Even<const HALF: i32>;

impl<const HALF: i32> Levels for Even<HALF> {
    const END: f32 = -(HALF as f32);
    const SPREAD: f32 = 0.9;
    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        nearest(v.clamp(Self::END, -Self::END - 1.0))
    }
}

/// A block before its bits are packed; `q` are levels.
#[derive(Debug, PartialEq)]
pub(super) struct Packed<const RUNS: usize> {
    pub(super) d: f16,
    pub(super) scales: [i8; RUNS],
    pub(super) q: [i8; BLOCK],
}

/// Places of the largest value that are tried on either side of the end.
pub(super) const TRIES: i32 = 9;
/// Turns of refitting and rounding.
pub(super) const TURNS: usize = 2;
/// Values of a block that is one run.
pub(super) const ONE: usize = 32;
/// Such blocks that are searched side by side.
pub(super) const BESIDE: usize = 8;

/// Searches a block whose `RUNS` runs of `LEN` have packed scales of `-field ..= field - 1`.
#[inline(always)]
pub(super) fn search<L: Levels, const RUNS: usize, const LEN: usize>(values: &[f32], field: f32) -> Packed<RUNS> {
    let zero = Packed { d: f16::ZERO, scales: [0; RUNS], q: [0; BLOCK] };
    let Some(block) = Scaled::<BLOCK>::new(values) else { return zero };
    let runs = Runs::<L, RUNS, LEN>::new(side_by_side(&block.x));
    let mut scales = runs.fit();

    let largest = scales.iter().fold(0f32, |best, &s| if s.abs() > best.abs() { s } else { best });
    let mut step = largest / -field;
    // nothing at all is the answer to beat: weights may be smaller than the least scale
    let mut best = (runs.xx.iter().sum::<f32>(), zero);
    let mut levels = None;
    for _ in 0..=TURNS {
        let (d, stored) = block.store(step);
        let code: Lanes<RUNS> = std::array::from_fn(|r| {
            let code = scales[r] / stored;
            nearest(if stored == 0.0 { 0.0 } else { code }.clamp(-field, field - 1.0))
        });
        let inverse = code.map(|code| inverse_of(stored * code));
        let sums = runs.sums(&inverse);
        let (mut error, mut all_xq, mut all_qq) = (0.0, 0.0, 0.0);
        for r in 0..RUNS {
            let (code, xq, qq) = (code[r], sums.xq[r], sums.qq[r]);
            error += runs.xx[r] + stored * code * (stored * code * qq - 2.0 * xq);
            all_xq += code * xq;
            all_qq += code * code * qq;
        }
        scales = sums.factors();
        if error < best.0 {
            best = (error, Packed { d, scales: code.map(|code| code as i8), q: [0; BLOCK] });
            levels = Some(inverse);
        }
        step = if all_qq > 0.0 { all_xq / all_qq } else { 0.0 };
    }
    let mut packed = best.1;
    if let Some(inverse) = levels {
        for (i, row) in runs.levels(&inverse).iter().enumerate() {
            for (r, &q) in row.iter().enumerate() {
                packed.q[r * LEN + i] = q;
            }
        }
    }
    packed
}

/// Searches up to [`BESIDE`] blocks of [`ONE`] value with one scale each; their scales and levels.
#[inline(always)]
pub(super) fn search_each<L: Levels>(values: &[f32]) -> [(f16, [i8; ONE]); BESIDE] {
    let blocks: [Option<Scaled<ONE>>; BESIDE] =
        std::array::from_fn(|b| Scaled::new(values.as_chunks::<ONE>().0.get(b)?));
    let x = std::array::from_fn(|i| std::array::from_fn(|b| blocks[b].as_ref().map_or(0.0, |block| block.x[i])));
    let runs = Runs::<L, BESIDE, ONE>::new(x);
    let mut scales = runs.fit();
    let mut best = (runs.xx, [f16::ZERO; BESIDE], [None; BESIDE]);
    for _ in 0..=TURNS {
        let stored = std::array::from_fn(|b| blocks[b].as_ref().map_or((f16::ZERO, 0.0), |x| x.store(scales[b])));
        let inverse = stored.map(|(_, stored)| inverse_of(stored));
        let sums = runs.sums(&inverse);
        for b in 0..BESIDE {
            let (d, stored) = stored[b];
            let error = runs.xx[b] + stored * (stored * sums.qq[b] - 2.0 * sums.xq[b]);
            if error < best.0[b] {
                (best.0[b], best.1[b], best.2[b]) = (error, d, Some(inverse[b]));
            }
        }
        scales = sums.factors();
    }
    let rows = runs.levels(&best.2.map(Option::unwrap_or_default));
    let nothing = low_byte(L::nearest(0.0)) as i8;
    std::array::from_fn(|b| {
        let q = std::array::from_fn(|i| if best.2[b].is_some() { rows[i][b] } else { nothing });
        (best.1[b], q)
    })
}

/// Sums of a least-squares fit of one factor a run: the best `s` in `x = s * q` is `xq / qq`.
struct Sums<const RUNS: usize> {
    xq: Lanes<RUNS>,
    qq: Lanes<RUNS>,
}

impl<const RUNS: usize> Sums<RUNS> {
    /// The best factors.
    #[inline(always)]
    fn factors(&self) -> Lanes<RUNS> {
        std::array::from_fn(|r| {
            let factor = self.xq[r] / self.qq[r];
            if self.qq[r] > 0.0 { factor } else { 0.0 }
        })
    }
}

/// Runs, their weights and the sum that needs no integers. Large values count more: they carry most of a product.
struct Runs<L, const RUNS: usize, const LEN: usize> {
    x: Side<RUNS, LEN>,
    weight: Side<RUNS, LEN>,
    xx: Lanes<RUNS>,
    levels: PhantomData<L>,
}

impl<L: Levels, const RUNS: usize, const LEN: usize> Runs<L, RUNS, LEN> {
    #[inline(always)]
    fn new(x: Side<RUNS, LEN>) -> Self {
        let weight = x.map(|row| row.map(|x| x * x));
        let mut xx = [-0.0; RUNS];
        for (x, w) in x.iter().zip(&weight) {
            for r in 0..RUNS {
                xx[r] += w[r] * x[r] * x[r];
            }
        }
        Runs { x, weight, xx, levels: PhantomData }
    }

    /// For each run the scale of least weighted error over all places that are tried.
    #[inline(always)]
    fn fit(&self) -> Lanes<RUNS> {
        let mut extreme = [0f32; RUNS];
        for row in &self.x {
            for r in 0..RUNS {
                extreme[r] = if row[r].abs() > extreme[r].abs() { row[r] } else { extreme[r] };
            }
        }
        let mut best = Sums { xq: [0.0; RUNS], qq: [0.0; RUNS] };
        let mut most = [0.0; RUNS];
        for n in -TRIES..=TRIES {
            let place = L::END + L::SPREAD * n as f32 / TRIES as f32;
            let sums = self.sums(&extreme.map(|extreme| inverse_of(extreme / place)));
            for r in 0..RUNS {
                // how much of the weighted square of x the best factor explains
                let explained = sums.xq[r] * sums.xq[r] / sums.qq[r];
                let better = (sums.qq[r] > 0.0) & (explained > most[r]);
                most[r] = if better { explained } else { most[r] };
                best.xq[r] = if better { sums.xq[r] } else { best.xq[r] };
                best.qq[r] = if better { sums.qq[r] } else { best.qq[r] };
            }
        }
        best.factors()
    }

    /// Sums of the nearest levels at some scales. Every eighth value of a run has a sum of its own, and the eight are
    /// added last.
    #[inline(always)]
    fn sums(&self, inverse: &Lanes<RUNS>) -> Sums<RUNS> {
        let mut all = Sums { xq: [-0.0; RUNS], qq: [-0.0; RUNS] };
        for lane in 0..LANES {
            let (mut xq, mut qq) = ([0f32; RUNS], [0f32; RUNS]);
            for chunk in 0..LEN / LANES {
                let (x, weight) = (&self.x[chunk * LANES + lane], &self.weight[chunk * LANES + lane]);
                for r in 0..RUNS {
                    let q = L::nearest(x[r] * inverse[r]);
                    let wq = weight[r] * q;
                    xq[r] += wq * x[r];
                    qq[r] += wq * q;
                }
            }
            for r in 0..RUNS {
                all.xq[r] += xq[r];
                all.qq[r] += qq[r];
            }
        }
        all
    }

    /// The nearest levels at some scales.
    #[inline(always)]
    fn levels(&self, inverse: &Lanes<RUNS>) -> [[i8; RUNS]; LEN] {
        self.x.map(|row| std::array::from_fn(|r| low_byte(L::nearest(row[r] * inverse[r])) as i8))
    }
}
