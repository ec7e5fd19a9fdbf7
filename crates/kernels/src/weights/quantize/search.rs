//! What the searches share.
//!
//! A search works on a block divided by its largest magnitude, so that squares neither overflow nor vanish
//! whatever the weights' scale; only the two numbers stored as f16 see the real one.

use half::f16;

use super::finite_half;

/// Values of a block of the formats with packed scales.
pub(super) const BLOCK: usize = 256;

/// Below this no f16 scale of any format can hold the block: it is zero.
const NOTHING: f32 = 1e-30;

/// Nearest integer, ties to even. Exact below 2^22 and, unlike `round`, a plain pair of additions that the compiler
/// vectorises on every processor.
#[inline]
pub(super) fn nearest(v: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23
    (v + SHIFT) - SHIFT
}

/// A block in units of its largest magnitude.
pub(super) struct Scaled<const N: usize> {
    pub(super) x: [f32; N],
    pub(super) peak: f32,
}

impl<const N: usize> Scaled<N> {
    /// `None` for a block that no scale can hold: all zeros, or nearly.
    pub(super) fn new(values: &[f32]) -> Option<Self> {
        let peak = values.iter().fold(0f32, |best, v| best.max(v.abs()));
        if peak < NOTHING {
            return None;
        }
        Some(Scaled { x: std::array::from_fn(|i| values[i] / peak), peak })
    }

    /// A scale in these units as it can be stored, and what it then really is in these units.
    pub(super) fn store(&self, scale: f32) -> (f16, f32) {
        let exact = scale * self.peak;
        let mut half = finite_half(exact);
        // Below the normal numbers f16 has few digits, and small weights get there: a step that is rounded down would
        // leave the largest values out of reach of the integers, one that is rounded up costs next to nothing.
        if half.to_f32().abs() < exact.abs() && half.to_f32().abs() < f16::MIN_POSITIVE.to_f32() {
            half = f16::from_bits(half.to_bits() + 1);
        }
        (half, half.to_f32() / self.peak)
    }
}

/// Sums of a least-squares fit of one factor: the best `s` in `x = s * q` is `xq / qq`.
#[derive(Clone, Copy, Default)]
pub(super) struct Fit {
    pub(super) xq: f32,
    pub(super) qq: f32,
}

impl Fit {
    /// How much of the weighted square of `x` the best factor explains: larger is better.
    pub(super) fn explained(self) -> f32 {
        if self.qq > 0.0 { self.xq * self.xq / self.qq } else { 0.0 }
    }

    /// The best factor.
    pub(super) fn factor(self) -> f32 {
        if self.qq > 0.0 { self.xq / self.qq } else { 0.0 }
    }
}
