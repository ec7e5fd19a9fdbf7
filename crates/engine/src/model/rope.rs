//! Rotary position embedding: frequencies, and the tables of cosines and sines a chunk needs.
//!
//! Channel i is paired with channel i + rotated/2 (the Hugging Face order, which the loader restores for files stored
//! otherwise). Angles are f32 products of an f32 frequency and the position, as in the reference implementations.

use crate::error::EngineError;

/// How the base frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike.
    Linear {
        /// How much longer the context is made.
        factor: f64,
    },
    /// Long wavelengths fully, short ones not at all, a ramp between.
    Llama3 {
        /// How much longer the context is made.
        factor: f64,
        /// Wavelengths above original / low are fully scaled.
        low: f64,
        /// Wavelengths below original / high are kept.
        high: f64,
        /// Context before scaling.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// How much longer the context is made.
        factor: f64,
        /// Context before scaling.
        original: usize,
        /// Factor on queries and keys; `0.1 ln(factor) + 1` where absent.
        attention_factor: Option<f64>,
        /// Rotations above which nothing is scaled.
        beta_fast: f64,
        /// Rotations below which all is.
        beta_slow: f64,
    },
    /// A divisor for each pair, another set beyond the original context (phi3).
    Long {
        /// Divisors up to the original context.
        short: Vec<f64>,
        /// Divisors beyond it.
        long: Vec<f64>,
        /// Context before scaling.
        original: usize,
        /// Context after scaling.
        context: usize,
        /// Factor on queries and keys, where the file names one.
        attention_factor: Option<f64>,
    },
    /// A divisor for each pair, as a tensor of the file.
    Factors(Vec<f64>),
}

/// One rotation: an inverse frequency for each pair of channels.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    inverse: Vec<f32>,
    long: Option<LongRope>,
    factor: f32,
}

#[derive(Clone, Debug, PartialEq)]
struct LongRope {
    inverse: Vec<f32>,
    original: usize,
}

/// Cosines and sines of some positions, `(positions, pairs)` each.
#[derive(Clone, Debug, Default)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

impl RopeSpec {
    /// Frequencies for `rotated` channels of a head with base `theta`.
    pub fn new(rotated: usize, theta: f64, scaling: &RopeScaling) -> Result<RopeSpec, EngineError> {
        let refuse = |why: String| Err(EngineError::Config { field: "rope".into(), why });
        if rotated == 0 || !rotated.is_multiple_of(2) {
            return refuse(format!("{rotated} channels cannot be rotated in pairs"));
        }
        if !(theta.is_finite() && theta > 1.0) {
            return refuse(format!("base {theta} is not a number above 1"));
        }
        let pairs = rotated / 2;
        let base: Vec<f64> = (0..pairs).map(|i| 1.0 / theta.powf(2.0 * i as f64 / rotated as f64)).collect();
        let divide = |factors: &[f64]| -> Result<Vec<f64>, EngineError> {
            if factors.len() != pairs || factors.iter().any(|f| !(f.is_finite() && *f > 0.0)) {
                return Err(EngineError::Config {
                    field: "rope factors".into(),
                    why: format!("{} factors (all have to be positive) for {pairs} pairs of channels", factors.len()),
                });
            }
            Ok(base.iter().zip(factors).map(|(b, f)| b / f).collect())
        };
        let positive = |factor: f64| {
            if factor.is_finite() && factor > 0.0 {
                Ok(factor)
            } else {
                Err(EngineError::Config { field: "rope factor".into(), why: format!("{factor} is not positive") })
            }
        };
        let mut attention = 1.0;
        let mut long_inverse = None;
        let inverse = match scaling {
            RopeScaling::None => base.clone(),
            RopeScaling::Linear { factor } => {
                let factor = positive(*factor)?;
                base.iter().map(|b| b / factor).collect()
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let factor = positive(*factor)?;
                base.iter().map(|&b| llama3(b, factor, (*low, *high), *original as f64)).collect()
            }
            RopeScaling::Yarn { factor, original, attention_factor, beta_fast, beta_slow } => {
                let factor = positive(*factor)?;
                attention = attention_factor.unwrap_or(if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 });
                yarn(&base, theta, factor, *original as f64, (*beta_fast, *beta_slow))
            }
            RopeScaling::Long { short, long, original, context, attention_factor } => {
                let stretch = *context as f64 / (*original).max(1) as f64;
                attention = attention_factor.unwrap_or(if stretch > 1.0 {
                    (1.0 + stretch.ln() / (*original as f64).ln()).sqrt()
                } else {
                    1.0
                });
                long_inverse = Some(LongRope { inverse: to_f32(divide(long)?), original: *original });
                divide(short)?
            }
            RopeScaling::Factors(factors) => divide(factors)?,
        };
        Ok(RopeSpec { inverse: to_f32(inverse), long: long_inverse, factor: attention as f32 })
    }

    /// Channels that are rotated.
    pub fn rotated(&self) -> usize {
        2 * self.inverse.len()
    }

    /// What each frequency of `plain` is divided by to get this rotation's.
    pub(crate) fn divisors(&self, plain: &RopeSpec) -> Vec<f32> {
        plain.inverse.iter().zip(&self.inverse).map(|(p, s)| p / s).collect()
    }

    /// Factor on queries and keys.
    pub(crate) fn attention_factor(&self) -> f32 {
        self.factor
    }

    /// Whether two rotations are the same but for rounding.
    pub(crate) fn is_like(&self, other: &RopeSpec) -> bool {
        let close =
            |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs());
        let long = match (&self.long, &other.long) {
            (Some(a), Some(b)) => a.original == b.original && close(&a.inverse, &b.inverse),
            (None, None) => true,
            _ => false,
        };
        long && close(&self.inverse, &other.inverse) && close(&[self.factor], &[other.factor])
    }

    /// Context from which on the long factors are needed, if there are any.
    pub fn original(&self) -> Option<usize> {
        self.long.as_ref().map(|long| long.original)
    }

    /// Fill the table for some positions. `long` chooses the long factors where the rotation has them.
    pub fn fill(&self, positions: &[u32], long: bool, table: &mut RopeTable) {
        let inverse = match &self.long {
            Some(set) if long => &set.inverse,
            _ => &self.inverse,
        };
        table.cos.clear();
        table.sin.clear();
        for &position in positions {
            for &frequency in inverse {
                let (sin, cos) = f64::from(frequency * position as f32).sin_cos();
                table.cos.push(cos as f32 * self.factor);
                table.sin.push(sin as f32 * self.factor);
            }
        }
    }
}

fn to_f32(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

fn llama3(frequency: f64, factor: f64, (low, high): (f64, f64), original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

fn yarn(base: &[f64], theta: f64, factor: f64, original: f64, (fast, slow): (f64, f64)) -> Vec<f64> {
    let dim = 2.0 * base.len() as f64;
    // the channel that turns `rotations` times within the original context
    let channel =
        |rotations: f64| dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let low = channel(fast).floor().max(0.0);
    let mut high = channel(slow).ceil().min(dim - 1.0);
    if low == high {
        high += 0.001;
    }
    base.iter()
        .enumerate()
        .map(|(i, &b)| {
            let scaled = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            b / factor * scaled + b * (1.0 - scaled)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frequencies_fall_from_one_to_the_base() {
        let rope = RopeSpec::new(8, 10_000.0, &RopeScaling::None).unwrap();
        assert_eq!(rope.inverse, [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
        let rope = RopeSpec::new(16, 500_000.0, &scaling).unwrap();
        assert_eq!(rope.inverse[0], 1.0, "wavelength 6.3 is below 64 / 4");
        let last = 500_000f64.powf(-14.0 / 16.0);
        assert!((f64::from(rope.inverse[7]) - last / 8.0).abs() < 1e-12);
    }

    #[test]
    fn yarn_scales_the_slow_end_only_and_lifts_attention() {
        let scaling =
            RopeScaling::Yarn { factor: 4.0, original: 2048, attention_factor: None, beta_fast: 32.0, beta_slow: 1.0 };
        let rope = RopeSpec::new(64, 10_000.0, &scaling).unwrap();
        let plain = RopeSpec::new(64, 10_000.0, &RopeScaling::None).unwrap();
        assert_eq!(rope.inverse[0], plain.inverse[0]);
        assert_eq!(rope.inverse[31], plain.inverse[31] / 4.0);
        assert!((rope.factor - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn factors_of_the_wrong_length_are_refused() {
        assert!(RopeSpec::new(8, 1e4, &RopeScaling::Factors(vec![1.0; 3])).is_err());
        assert!(RopeSpec::new(8, 1e4, &RopeScaling::Factors(vec![0.0; 4])).is_err());
        assert!(RopeSpec::new(7, 1e4, &RopeScaling::None).is_err());
        assert!(RopeSpec::new(8, f64::NAN, &RopeScaling::None).is_err());
    }
}
