//! The standard normal distribution.

/// P(Z <= z) to about 1e-15 absolute, through the complementary error function's continued fraction and series.
pub fn cdf(z: f64) -> f64 {
    if z.is_nan() {
        return f64::NAN;
    }
    let tail = upper_tail(z.abs());
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// P(Z > z) for z >= 0, accurate in the far tail too.
fn upper_tail(z: f64) -> f64 {
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z < 2.5 {
        // 1/2 - density * (z + z^3/3 + z^5/(3*5) + ...)
        let (mut term, mut total, mut k) = (z, z, 1.0);
        while term > total * 1e-17 {
            k += 2.0;
            term *= z * z / k;
            total += term;
        }
        return 0.5 - density * total;
    }
    // Laplace's continued fraction z + 1/(z + 2/(z + 3/(z + ...))), from the inside out.
    let fraction = (1..=120).rev().fold(z, |inner, k| z + f64::from(k) / inner);
    density / fraction
}

/// The z with P(Z <= z) = p; infinite at 0 and 1, not a number outside.
///
/// A rational first guess (Hastings, as in Abramowitz and Stegun 26.2.23, error under 5e-4) and Halley steps on
/// [`cdf`] until they no longer move it.
pub fn quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // Work in the tail, where 1 - p would lose digits, and mirror at the end.
    let tail = p.min(1.0 - p);
    let t = (-2.0 * tail.ln()).sqrt();
    let top = 2.515517 + t * (0.802853 + t * 0.010328);
    let bottom = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    let mut z = (t - top / bottom).max(0.0);
    for _ in 0..4 {
        let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
        let newton = (upper_tail(z) - tail) / density;
        z += newton / (1.0 - 0.5 * z * newton);
    }
    if p < 0.5 { -z } else { z }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (z, p) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-1.959_963_984_540_054, 0.025),
            (2.575_829_303_548_901, 0.995),
            (-6.0, 9.865_876_450_376_98e-10),
        ] {
            assert!((cdf(z) - p).abs() < 1e-14, "cdf({z}) = {}", cdf(z));
            assert!((quantile(p) - z).abs() < 1e-9, "quantile({p}) = {}", quantile(p));
        }
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
        assert!(quantile(1.1).is_nan());
        assert!(cdf(f64::NAN).is_nan());
    }

    #[test]
    fn the_two_halves_of_the_tail_meet() {
        let (left, right) = (upper_tail(2.5 - 1e-9), upper_tail(2.5));
        assert!((left - right).abs() < 1e-10, "{left} {right}");
    }
}
