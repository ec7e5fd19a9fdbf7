//! What the searches share.
//!
//! A search works on a block divided by its largest magnitude, so that squares neither overflow nor vanish
//! whatever the weights' scale; only the two numbers stored as f16 see the real one.
//!
//! Runs go side by side: whatever a search adds up, compares or divides is an array with one entry a run, so that the
//! compiler can keep it in vector registers, and no sum ever goes across a register. `plain` is the same search run by
//! run, which the tests hold against it.

use half::f16;

use super::finite_half;

/// Values of a block of the formats with packed scales.
pub(super) const BLOCK: usize = 256;

/// Partial sums of a run.
pub(super) const LANES: usize = 8;

/// One number for each run.
pub(super) type Lanes<const RUNS: usize> = [f32; RUNS];

/// Value `i` of every run, for each `i`.
pub(super) type Side<const RUNS: usize, const LEN: usize> = [[f32; RUNS]; LEN];

/// A block's runs side by side.
#[inline(always)]
pub(super) fn side_by_side<const RUNS: usize, const LEN: usize>(values: &[f32; BLOCK]) -> Side<RUNS, LEN> {
    const { assert!(RUNS * LEN == BLOCK && LEN.is_multiple_of(LANES)) };
    std::array::from_fn(|i| std::array::from_fn(|r| values[r * LEN + i]))
}

/// One over a scale that may be 0 or far too small: 0, or as large as there is.
#[inline(always)]
pub(super) fn inverse_of(scale: f32) -> f32 {
    let inverse = (1.0 / scale).clamp(-f32::MAX, f32::MAX);
    if scale == 0.0 { 0.0 } else { inverse }
}

/// Below this no f16 scale of any format can hold the block: it is zero.
const NOTHING: f32 = 1e-30;

/// Nearest integer, ties to even. Exact below 2^22 and, unlike `round`, a plain pair of additions that the compiler
/// vectorises on every processor.
#[inline(always)]
pub(super) fn nearest(v: f32) -> f32 {
    (v + SHIFT) - SHIFT
}

/// A small integer's lowest byte, in two's complement.
#[inline(always)]
pub(super) fn low_byte(integer: f32) -> u8 {
    (integer + SHIFT).to_bits() as u8
}

/// 1.5 * 2^23: numbers of this size have no fraction, and their last bits count integers.
const SHIFT: f32 = 12_582_912.0;

/// A block in units of its largest magnitude.
pub(super) struct Scaled<const N: usize> {
    pub(super) x: [f32; N],
    pub(super) peak: f32,
}

impl<const N: usize> Scaled<N> {
    /// `None` for a block that no scale can hold: all zeros, or nearly.
    #[inline(always)]
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
