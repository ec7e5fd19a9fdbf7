//! Formats whose runs have one signed scale: `d * s * level`.
//!
//! Each run is first fitted alone: the value of largest magnitude is put at, or near, the far end of the levels, the
//! others are rounded, the scale that suits these levels best follows in closed form, and the place with the least
//! weighted error wins. Then the runs' scales are packed, and rounding and refitting take turns on the whole block.

use std::marker::PhantomData;

use half::f16;

use super::search::{BLOCK, Fit, Scaled, nearest};

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
    #[inline]
    fn nearest(v: f32) -> f32 {
        nearest(v.clamp(Self::END, -Self::END - 1.0))
    }
}

/// A block before its bits are packed; `q` are levels.
pub(super) struct Packed<const RUNS: usize> {
    pub(super) d: f16,
    pub(super) scales: [i8; RUNS],
    pub(super) q: [i8; BLOCK],
}

/// Places of the largest value that are tried on either side of the end.
const TRIES: i32 = 9;
/// Turns of refitting and rounding.
const TURNS: usize = 2;
/// Sums are kept in this many lanes: a fixed order that the compiler can vectorise.
const LANES: usize = 8;

/// Searches a block whose runs have packed scales of `-field ..= field - 1`.
pub(super) fn search<L: Levels, const RUNS: usize>(values: &[f32], field: f32) -> Packed<RUNS> {
    let zero = Packed { d: f16::ZERO, scales: [0; RUNS], q: [0; BLOCK] };
    let Some(block) = Scaled::<BLOCK>::new(values) else { return zero };
    let len = BLOCK / RUNS;
    let w = block.x.map(weight);
    let runs: [Run<'_, L>; RUNS] = std::array::from_fn(|r| Run::new(&block.x[r * len..][..len], &w[r * len..][..len]));
    let mut scales = runs.each_ref().map(Run::fit);

    let largest = scales.iter().fold(0f32, |best, &s| if s.abs() > best.abs() { s } else { best });
    let mut step = largest / -field;
    // nothing at all is the answer to beat: weights may be smaller than the least scale
    let mut best = (runs.iter().map(|run| run.xx).sum(), zero);
    for _ in 0..=TURNS {
        let (d, stored) = block.store(step);
        let mut packed = Packed { d, scales: [0; RUNS], q: [0; BLOCK] };
        let (mut error, mut all) = (0.0, Fit::default());
        for (r, run) in runs.iter().enumerate() {
            let code = if stored == 0.0 { 0.0 } else { scales[r] / stored };
            let code = nearest(code.clamp(-field, field - 1.0));
            let fit = run.round(stored * code, Some(&mut packed.q[r * len..][..len]));
            error += run.xx + stored * code * (stored * code * fit.qq - 2.0 * fit.xq);
            packed.scales[r] = code as i8;
            all.xq += code * fit.xq;
            all.qq += code * code * fit.qq;
            scales[r] = fit.factor();
        }
        if error < best.0 {
            best = (error, packed);
        }
        step = all.factor();
    }
    best.1
}

/// Searches a block of 32 values with one scale; the levels and the scale.
pub(super) fn search_one<L: Levels>(values: &[f32]) -> (f16, [i8; 32]) {
    let zero = (f16::ZERO, [L::nearest(0.0) as i8; 32]);
    let Some(block) = Scaled::<32>::new(values) else { return zero };
    let w = block.x.map(weight);
    let run = Run::<L>::new(&block.x, &w);
    let mut scale = run.fit();
    let mut best = (run.xx, zero);
    for _ in 0..=TURNS {
        let (d, stored) = block.store(scale);
        let mut q = [0; 32];
        let fit = run.round(stored, Some(&mut q));
        let error = run.xx + stored * (stored * fit.qq - 2.0 * fit.xq);
        if error < best.0 {
            best = (error, (d, q));
        }
        scale = fit.factor();
    }
    best.1
}

/// Large values count more: they carry most of a product.
#[inline]
fn weight(x: f32) -> f32 {
    x * x
}

/// A run, its weights and the sum that needs no integers.
struct Run<'a, L> {
    x: &'a [f32],
    w: &'a [f32],
    xx: f32,
    levels: PhantomData<L>,
}

impl<'a, L: Levels> Run<'a, L> {
    fn new(x: &'a [f32], w: &'a [f32]) -> Self {
        let xx = x.iter().zip(w).map(|(x, w)| w * x * x).sum();
        Run { x, w, xx, levels: PhantomData }
    }

    /// The scale of least weighted error over all places that are tried.
    fn fit(&self) -> f32 {
        let extreme = self.x.iter().fold(0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
        if extreme == 0.0 {
            return 0.0;
        }
        let mut best = Fit::default();
        for n in -TRIES..=TRIES {
            let place = L::END + L::SPREAD * n as f32 / TRIES as f32;
            let fit = self.round(extreme / place, None);
            if fit.explained() > best.explained() {
                best = fit;
            }
        }
        best.factor()
    }

    /// Rounds to the nearest levels at a scale and sums them; writes them where there is room for them.
    fn round(&self, scale: f32, out: Option<&mut [i8]>) -> Fit {
        // a run far smaller than its block: any level will do, as long as the division is one
        let inverse = if scale == 0.0 { 0.0 } else { (1.0 / scale).clamp(-f32::MAX, f32::MAX) };
        let (mut xq, mut qq) = ([0f32; LANES], [0f32; LANES]);
        for (x, w) in self.x.as_chunks::<LANES>().0.iter().zip(self.w.as_chunks::<LANES>().0) {
            for j in 0..LANES {
                let q = L::nearest(x[j] * inverse);
                let wq = w[j] * q;
                xq[j] += wq * x[j];
                qq[j] += wq * q;
            }
        }
        if let Some(out) = out {
            out.iter_mut().zip(self.x).for_each(|(q, &x)| *q = L::nearest(x * inverse) as i8);
        }
        Fit { xq: xq.iter().sum(), qq: qq.iter().sum() }
    }
}
