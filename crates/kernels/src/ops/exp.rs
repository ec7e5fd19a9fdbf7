//! e^x and tanh as straight-line f32 arithmetic, which the compiler turns into vector code wherever it is inlined.
//!
//! The method is Cody & Waite's (Software Manual for the Elementary Functions, 1980): x = n ln 2 + f with |f| at most
//! ln 2 / 2, e^x = 2^n e^f. ln 2 is split in two so that `x - n ln 2` loses nothing; e^f is its Taylor polynomial of
//! degree 7, whose remainder is below 6e-9 there. The largest relative error found over all of f32 is 1.3e-7.

/// 1.5 * 2^23: adding it rounds to an integer, which then sits in the low bits.
const ROUND: f32 = 12_582_912.0;
/// The top bits of ln 2; times an integer below 2^9 it is exact.
const LN2_HIGH: f32 = 0.693_359_4;
/// The rest of ln 2.
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Above it e^x is infinity; just below, n reaches 128 and the scale is applied in two halves.
const HIGHEST: f32 = 88.8;
/// Below it e^x is zero in f32.
const LOWEST: f32 = -104.0;

/// 1/k! for k = 7 down to 0.
const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x; NaN stays NaN, overflow gives infinity, underflow zero or a denormal number.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written as comparisons, not min/max, so that a NaN falls through and the instruction is one.
    let x = if x > HIGHEST { HIGHEST } else { x };
    let x = if x < LOWEST { LOWEST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = x - n * LN2_HIGH - n * LN2_LOW;
    let mut y = TAYLOR[0];
    for c in &TAYLOR[1..] {
        y = y * f + c;
    }
    // 2^n in two factors, because n reaches 128 at the top and -150 at the bottom, outside a f32's exponent.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n - half)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// tanh x. Through e^x, except near zero where that would cancel: there the odd minimax polynomial of Cephes' tanhf.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let far = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    let z = x * x;
    let mut y = -5.704_988_7e-3f32;
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        y = y * z + c;
    }
    let near = x + x * (z * y);
    if size < 0.625 { near } else { far.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::{exp, tanh};

    /// Every 997th f32 of each sign: four million values.
    fn all() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(997).map(f32::from_bits).filter(|x| x.is_finite())
    }

    #[test]
    fn exp_is_right_to_1_3e_7_where_the_result_is_normal() {
        let mut worst = (0.0, 0.0);
        for x in all().filter(|x| (-87.3..88.72).contains(x)) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            if error > worst.1 {
                worst = (x, error);
            }
        }
        assert!(worst.1 < 1.3e-7, "{worst:?}");
    }

    #[test]
    fn exp_meets_its_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        let denormal = f64::from(exp(-95.0)) / (-95f64).exp();
        assert!((denormal - 1.0).abs() < 1e-3, "{denormal}");
    }

    #[test]
    fn tanh_is_right_to_2e_7() {
        for x in all() {
            let exact = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - exact).abs();
            assert!(error <= 2e-7 * exact.abs(), "tanh({x}) = {} not {exact}", tanh(x));
        }
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
    }
}
