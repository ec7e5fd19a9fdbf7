//! Formats whose runs have a scale and a minimum, both packed: `d * s * q - dmin * m`.
//!
//! Each run is first fitted alone: for some twenty widths of the grid around the run's range the integers are
//! rounded, the scale and minimum that suit those integers best follow in closed form, and the width with the least
//! weighted error wins. Then the runs' scales are packed, and rounding and refitting take turns on the whole block.
//!
//! The runs of a block go side by side, one in each lane of the vectors (see [`Side`]).

// Lanes go by number: a loop walks several arrays at once.
#![allow(clippy::needless_range_loop)]

use half::f16;

use super::search::{BLOCK, LANES, Lanes, Scaled, Side, inverse_of, low_byte, nearest};

/// Largest integers of a format.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of a value: 3, 15 or 31.
    pub(super) q: f32,
    /// Of a packed scale or minimum: 15 or 63.
    pub(super) field: f32,
}

/// A block before its bits are packed.
#[derive(Debug, PartialEq)]
pub(super) struct Packed<const RUNS: usize> {
    pub(super) d: f16,
    pub(super) dmin: f16,
    pub(super) scales: [u8; RUNS],
    pub(super) mins: [u8; RUNS],
    pub(super) q: [u8; BLOCK],
}

/// Widths of the grid that are tried.
pub(super) const TRIES: i32 = 20;
/// Turns of refitting and rounding.
pub(super) const TURNS: usize = 2;

/// `x = scale * q - min` for each run, both 0 or more.
#[derive(Clone, Copy)]
struct Lines<const RUNS: usize> {
    scale: Lanes<RUNS>,
    min: Lanes<RUNS>,
}

/// Weighted sums over each run that follow from its integers: wq, wqq, wxq.
struct Sums<const RUNS: usize> {
    q: Lanes<RUNS>,
    qq: Lanes<RUNS>,
    xq: Lanes<RUNS>,
}

/// The runs, their weights and the sums that need no integers: w, wx, wxx.
struct Runs<const RUNS: usize, const LEN: usize> {
    x: Side<RUNS, LEN>,
    weight: Side<RUNS, LEN>,
    w: Lanes<RUNS>,
    wx: Lanes<RUNS>,
    xx: Lanes<RUNS>,
}

/// Searches the block: `RUNS` runs of `LEN`.
#[inline(always)]
pub(super) fn search<const RUNS: usize, const LEN: usize>(values: &[f32], limits: Limits) -> Packed<RUNS> {
    let zero = Packed { d: f16::ZERO, dmin: f16::ZERO, scales: [0; RUNS], mins: [0; RUNS], q: [0; BLOCK] };
    let Some(block) = Scaled::<BLOCK>::new(values) else { return zero };
    let runs = Runs::<RUNS, LEN>::new(&block.x);
    let mut lines = runs.fit(limits.q);

    let most = |of: &Lanes<RUNS>| of.iter().copied().fold(0f32, f32::max) / limits.field;
    let mut steps = (most(&lines.scale), most(&lines.min));
    // nothing at all is the answer to beat: weights may be smaller than the least scale
    let mut best = (runs.xx.iter().sum::<f32>(), zero);
    let mut integers = [[0; RUNS]; LEN];
    for _ in 0..=TURNS {
        let ((d, step), (dmin, min_step)) = (block.store(steps.0), block.store(steps.1));
        let (s, m) = (codes(&lines.scale, step, limits.field), codes(&lines.min, min_step, limits.field));
        let stored = Lines { scale: s.map(|s| step * s), min: m.map(|m| min_step * m) };
        let (sums, q) = runs.round(&stored, limits.q);
        let errors = runs.errors(&stored, &sums);
        let mut error = 0.0;
        // normal equations of the two steps: x = step * (s q) - min_step * m
        let [mut aa, mut ab, mut bb, mut ax, mut bx] = [0f32; 5];
        for r in 0..RUNS {
            error += errors[r];
            aa += s[r] * s[r] * sums.qq[r];
            ab += s[r] * m[r] * sums.q[r];
            bb += m[r] * m[r] * runs.w[r];
            ax += s[r] * sums.xq[r];
            bx += m[r] * runs.wx[r];
        }
        lines = runs.solve(&sums, &stored).0;
        if error < best.0 {
            let (scales, mins) = (s.map(|s| s as u8), m.map(|m| m as u8));
            best = (error, Packed { d, dmin, scales, mins, q: [0; BLOCK] });
            integers = q;
        }
        let det = aa * bb - ab * ab;
        steps = if det > 1e-6 * aa * bb {
            ((ax * bb - ab * bx) / det, (ab * ax - aa * bx) / det)
        } else if aa > 0.0 {
            (ax / aa, 0.0)
        } else {
            break;
        };
    }
    let mut packed = best.1;
    for (i, row) in integers.iter().enumerate() {
        for (r, &q) in row.iter().enumerate() {
            packed.q[r * LEN + i] = q;
        }
    }
    packed
}

/// Packed numbers of some scales or minimums.
#[inline(always)]
fn codes<const RUNS: usize>(values: &Lanes<RUNS>, step: f32, most: f32) -> Lanes<RUNS> {
    std::array::from_fn(|r| {
        let code = values[r] / step;
        nearest(if step == 0.0 { 0.0 } else { code }.clamp(0.0, most))
    })
}

#[inline(always)]
fn integer(x: f32, min: f32, inverse: f32, most: f32) -> f32 {
    nearest(((x + min) * inverse).clamp(0.0, most))
}

impl<const RUNS: usize, const LEN: usize> Runs<RUNS, LEN> {
    /// Large values count more, and all values of a run count: magnitude plus the run's own root mean square.
    #[inline(always)]
    fn new(values: &[f32; BLOCK]) -> Self {
        let x = super::search::side_by_side::<RUNS, LEN>(values);
        let mut square = [-0.0; RUNS];
        for row in &x {
            for r in 0..RUNS {
                square[r] += row[r] * row[r];
            }
        }
        let rms = square.map(|square| (square / LEN as f32).sqrt());
        let mut weight = [[0.0; RUNS]; LEN];
        let (mut w, mut wx, mut xx) = ([0.0; RUNS], [0.0; RUNS], [0.0; RUNS]);
        for (weight, x) in weight.iter_mut().zip(&x) {
            for r in 0..RUNS {
                weight[r] = rms[r] + x[r].abs();
                w[r] += weight[r];
                wx[r] += weight[r] * x[r];
                xx[r] += weight[r] * x[r] * x[r];
            }
        }
        Runs { x, weight, w, wx, xx }
    }

    /// For each run the line of least weighted error over all widths that are tried.
    #[inline(always)]
    fn fit(&self, q_max: f32) -> Lines<RUNS> {
        let (mut low, mut high) = ([0f32; RUNS], [f32::NEG_INFINITY; RUNS]);
        for row in &self.x {
            for r in 0..RUNS {
                low[r] = if row[r] < low[r] { row[r] } else { low[r] };
                high[r] = if row[r] > high[r] { row[r] } else { high[r] };
            }
        }
        // a run without a range stays flat: no integers but 0 fit it
        let mut best = Lines { scale: [0.0; RUNS], min: low.map(|low| -low) };
        let mut least = [f32::INFINITY; RUNS];
        let min = best.min;
        for n in 0..=TRIES {
            // from a grid one step too narrow to one that is one step wider than the run
            let width = q_max - 1.0 + 0.1 * n as f32;
            let inverse = std::array::from_fn(|r| inverse_of((high[r] - low[r]) / width));
            let sums = self.sums(&min, &inverse, q_max);
            let (lines, solved) = self.solve(&sums, &best);
            let errors = self.errors(&lines, &sums);
            for r in 0..RUNS {
                let better = solved[r] & (errors[r] < least[r]);
                least[r] = if better { errors[r] } else { least[r] };
                best.scale[r] = if better { lines.scale[r] } else { best.scale[r] };
                best.min[r] = if better { lines.min[r] } else { best.min[r] };
            }
        }
        best
    }

    /// Rounds to the nearest integers of some lines.
    #[inline(always)]
    fn round(&self, lines: &Lines<RUNS>, q_max: f32) -> (Sums<RUNS>, [[u8; RUNS]; LEN]) {
        let inverse = lines.scale.map(inverse_of);
        let mut q = [[0; RUNS]; LEN];
        for (q, x) in q.iter_mut().zip(&self.x) {
            for r in 0..RUNS {
                q[r] = low_byte(integer(x[r], lines.min[r], inverse[r], q_max));
            }
        }
        (self.sums(&lines.min, &inverse, q_max), q)
    }

    /// Sums of the nearest integers. Every eighth value of a run has a sum of its own, and the eight are added last.
    #[inline(always)]
    fn sums(&self, min: &Lanes<RUNS>, inverse: &Lanes<RUNS>, q_max: f32) -> Sums<RUNS> {
        let mut all = Sums { q: [-0.0; RUNS], qq: [-0.0; RUNS], xq: [-0.0; RUNS] };
        for lane in 0..LANES {
            let (mut q1, mut qq, mut xq) = ([0f32; RUNS], [0f32; RUNS], [0f32; RUNS]);
            for chunk in 0..LEN / LANES {
                let (x, weight) = (&self.x[chunk * LANES + lane], &self.weight[chunk * LANES + lane]);
                for r in 0..RUNS {
                    let q = integer(x[r], min[r], inverse[r], q_max);
                    let wq = weight[r] * q;
                    q1[r] += wq;
                    qq[r] += wq * q;
                    xq[r] += wq * x[r];
                }
            }
            for r in 0..RUNS {
                all.q[r] += q1[r];
                all.qq[r] += qq[r];
                all.xq[r] += xq[r];
            }
        }
        all
    }

    /// The lines that suit the integers best, and whether there is one: not where they are all 0 or only a negative
    /// scale would do. There the line is that of `or`.
    #[inline(always)]
    fn solve(&self, sums: &Sums<RUNS>, or: &Lines<RUNS>) -> (Lines<RUNS>, [bool; RUNS]) {
        let (mut lines, mut solved) = (*or, [false; RUNS]);
        for r in 0..RUNS {
            let (w, x, q, qq, xq) = (self.w[r], self.wx[r], sums.q[r], sums.qq[r], sums.xq[r]);
            let det = w * qq - q * q;
            let scale = (w * xq - x * q) / det;
            let min = (q * xq - qq * x) / det;
            let alone = xq / qq;
            // integers that are all alike say nothing of the minimum
            let both = (det > 1e-6 * w * qq) & (min >= 0.0);
            let scale = if both { scale } else { alone };
            let min = if both { min } else { 0.0 };
            solved[r] = (scale > 0.0) & (scale < f32::INFINITY);
            lines.scale[r] = if solved[r] { scale } else { or.scale[r] };
            lines.min[r] = if solved[r] { min } else { or.min[r] };
        }
        (lines, solved)
    }

    /// Weighted squared errors of the integers on their lines.
    #[inline(always)]
    fn errors(&self, lines: &Lines<RUNS>, sums: &Sums<RUNS>) -> Lanes<RUNS> {
        std::array::from_fn(|r| {
            let (s, m) = (lines.scale[r], lines.min[r]);
            self.xx[r] + s * s * sums.qq[r] + m * m * self.w[r]
                - 2.0 * (s * sums.xq[r] - m * self.wx[r] + s * m * sums.q[r])
        })
    }
}
