//! [`super::super::symmetric`], run by run: what it does, and in which order it adds, in the plainest words.

use std::marker::PhantomData;

use half::f16;

use crate::weights::quantize::search::{BLOCK, Scaled, nearest};
use crate::weights::quantize::symmetric::{Levels, Packed, TRIES, TURNS};

/// Sums are kept in this many lanes: a fixed order that the compiler can vectorise.
const LANES: usize = 8;

/// Searches a block whose runs have packed scales of `-field ..= field - 1`.
pub(in crate::weights::quantize) fn search<L: Levels, const RUNS: usize>(values: &[f32], field: f32) -> Packed<RUNS> {
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
pub(in crate::weights::quantize) fn search_one<L: Levels>(values: &[f32]) -> (f16, [i8; 32]) {
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

/// Sums of a least-squares fit of one factor: the best `s` in `x = s * q` is `xq / qq`.
#[derive(Clone, Copy, Default)]
struct Fit {
    xq: f32,
    qq: f32,
}

impl Fit {
    /// How much of the weighted square of `x` the best factor explains: larger is better.
    fn explained(self) -> f32 {
        if self.qq > 0.0 { self.xq * self.xq / self.qq } else { 0.0 }
    }

    /// The best factor.
    fn factor(self) -> f32 {
        if self.qq > 0.0 { self.xq / self.qq } else { 0.0 }
    }
}
