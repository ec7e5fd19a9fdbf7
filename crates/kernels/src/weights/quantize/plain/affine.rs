//! [`super::super::affine`], run by run: what it does, and in which order it adds, in the plainest words.

use half::f16;

use crate::weights::quantize::affine::{Limits, Packed, TRIES, TURNS};
use crate::weights::quantize::search::{BLOCK, Scaled, nearest};

/// Sums are kept in this many lanes: a fixed order that the compiler can vectorise.
const LANES: usize = 8;

/// `x = scale * q - min` for one run, both 0 or more.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    min: f32,
}

/// Weighted sums over one run: w, wx, wxx, wq, wqq, wxq.
#[derive(Clone, Copy, Default)]
struct Sums {
    w: f32,
    x: f32,
    xx: f32,
    q: f32,
    qq: f32,
    xq: f32,
}

/// A run, its weights and the sums that need no integers.
struct Run<'a> {
    x: &'a [f32],
    w: &'a [f32],
    fixed: Sums,
}

/// Searches the block.
pub(in crate::weights::quantize) fn search<const RUNS: usize>(values: &[f32], limits: Limits) -> Packed<RUNS> {
    let zero = Packed { d: f16::ZERO, dmin: f16::ZERO, scales: [0; RUNS], mins: [0; RUNS], q: [0; BLOCK] };
    let Some(block) = Scaled::<BLOCK>::new(values) else { return zero };
    let w = weights::<RUNS>(&block.x);
    let len = BLOCK / RUNS;
    let runs: [Run<'_>; RUNS] = std::array::from_fn(|r| Run::new(&block.x[r * len..][..len], &w[r * len..][..len]));
    let lines = runs.each_ref().map(|run| run.fit(limits.q));

    let most = |of: fn(&Line) -> f32| lines.iter().map(of).fold(0f32, f32::max) / limits.field;
    // nothing at all is the answer to beat: weights may be smaller than the least scale
    let mut best = (runs.iter().map(|run| run.fixed.xx).sum::<f32>(), zero);
    let mut steps = (most(|l| l.scale), most(|l| l.min));
    let mut lines = lines;
    for _ in 0..=TURNS {
        let ((d, step), (dmin, min_step)) = (block.store(steps.0), block.store(steps.1));
        let code = |value: f32, step: f32| {
            let code = if step == 0.0 { 0.0 } else { value / step };
            nearest(code.clamp(0.0, limits.field))
        };
        let mut packed = Packed { d, dmin, scales: [0; RUNS], mins: [0; RUNS], q: [0; BLOCK] };
        let (mut error, mut all) = (0.0, [0f32; 5]);
        for (r, run) in runs.iter().enumerate() {
            let (s, m) = (code(lines[r].scale, step), code(lines[r].min, min_step));
            let stored = Line { scale: step * s, min: min_step * m };
            let sums = run.round(stored, limits.q, Some(&mut packed.q[r * len..][..len]));
            error += sums.error(stored);
            (packed.scales[r], packed.mins[r]) = (s as u8, m as u8);
            // normal equations of the two steps: x = step * (s q) - min_step * m
            for (all, add) in
                all.iter_mut().zip([s * s * sums.qq, s * m * sums.q, m * m * sums.w, s * sums.xq, m * sums.x])
            {
                *all += add;
            }
            lines[r] = sums.solve().unwrap_or(stored);
        }
        if error < best.0 {
            best = (error, packed);
        }
        let [aa, ab, bb, ax, bx] = all;
        let det = aa * bb - ab * ab;
        steps = if det > 1e-6 * aa * bb {
            ((ax * bb - ab * bx) / det, (ab * ax - aa * bx) / det)
        } else if aa > 0.0 {
            (ax / aa, 0.0)
        } else {
            break;
        };
    }
    best.1
}

/// Large values count more, and all values of a run count: magnitude plus the run's own root mean square.
fn weights<const RUNS: usize>(x: &[f32; BLOCK]) -> [f32; BLOCK] {
    let len = BLOCK / RUNS;
    let mut w = [0.0; BLOCK];
    for (x, w) in x.chunks_exact(len).zip(w.chunks_exact_mut(len)) {
        let rms = (x.iter().map(|x| x * x).sum::<f32>() / len as f32).sqrt();
        w.iter_mut().zip(x).for_each(|(w, x)| *w = rms + x.abs());
    }
    w
}

impl<'a> Run<'a> {
    fn new(x: &'a [f32], w: &'a [f32]) -> Run<'a> {
        let mut fixed = Sums::default();
        for (&x, &w) in x.iter().zip(w) {
            fixed.w += w;
            fixed.x += w * x;
            fixed.xx += w * x * x;
        }
        Run { x, w, fixed }
    }

    /// The line of least weighted error over all widths that are tried.
    fn fit(&self, q_max: f32) -> Line {
        let low = self.x.iter().copied().fold(0f32, f32::min);
        let high = self.x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let flat = Line { scale: 0.0, min: -low };
        let range = high - low;
        if !(range > 0.0) {
            return flat;
        }
        let mut best = (f32::INFINITY, flat);
        for n in 0..=TRIES {
            // from a grid one step too narrow to one that is one step wider than the run
            let line = Line { scale: range / (q_max - 1.0 + 0.1 * n as f32), min: -low };
            let sums = self.round(line, q_max, None);
            if let Some(line) = sums.solve() {
                let error = sums.error(line);
                if error < best.0 {
                    best = (error, line);
                }
            }
        }
        best.1
    }

    /// Rounds to the nearest integers of a line and sums them; writes them where there is room for them.
    fn round(&self, line: Line, q_max: f32, out: Option<&mut [u8]>) -> Sums {
        let inverse = if line.scale == 0.0 { 0.0 } else { (1.0 / line.scale).min(f32::MAX) };
        let integer = |x: f32| nearest(((x + line.min) * inverse).clamp(0.0, q_max));
        let (mut q1, mut qq, mut xq) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for (x, w) in self.x.as_chunks::<LANES>().0.iter().zip(self.w.as_chunks::<LANES>().0) {
            for j in 0..LANES {
                let q = integer(x[j]);
                let wq = w[j] * q;
                q1[j] += wq;
                qq[j] += wq * q;
                xq[j] += wq * x[j];
            }
        }
        if let Some(out) = out {
            out.iter_mut().zip(self.x).for_each(|(q, &x)| *q = integer(x) as u8);
        }
        let sum = |lanes: [f32; LANES]| lanes.iter().sum::<f32>();
        Sums { q: sum(q1), qq: sum(qq), xq: sum(xq), ..self.fixed }
    }
}

impl Sums {
    /// The line that suits the integers best; `None` where they are all 0 or only a negative scale would do.
    fn solve(&self) -> Option<Line> {
        let det = self.w * self.qq - self.q * self.q;
        let scale = (self.w * self.xq - self.x * self.q) / det;
        let min = (self.q * self.xq - self.qq * self.x) / det;
        // integers that are all alike say nothing of the minimum
        let both = det > 1e-6 * self.w * self.qq && min >= 0.0;
        let line = if both { Line { scale, min } } else { Line { scale: self.xq / self.qq, min: 0.0 } };
        (line.scale > 0.0 && line.scale.is_finite()).then_some(line)
    }

    /// Weighted squared error of the integers on a line.
    fn error(&self, line: Line) -> f32 {
        let Line { scale: s, min: m } = line;
        self.xx + s * s * self.qq + m * m * self.w - 2.0 * (s * self.xq - m * self.x + s * m * self.q)
    }
}
