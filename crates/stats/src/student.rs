//! Student's t distribution: what the interval of a mean needs when its variance is estimated from few values.

/// Natural logarithm of the gamma function for x > 0 (Lanczos' approximation with g = 7 and nine terms).
fn ln_gamma(x: f64) -> f64 {
    const G: f64 = 7.0;
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let series = TERMS.iter().enumerate().skip(1).fold(TERMS[0], |total, (i, c)| total + c / (x + i as f64));
    let t = x + G + 0.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + series.ln()
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's evaluation).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast only below the mean; above it the mirror image does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp() / a;
    let guard = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        fraction *= c * d;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// P(T <= t) with `degrees` degrees of freedom (any positive number); not a number for others.
pub fn cdf(t: f64, degrees: f64) -> f64 {
    if t.is_nan() || degrees.is_nan() || degrees <= 0.0 {
        return f64::NAN;
    }
    let tail = 0.5 * incomplete_beta(0.5 * degrees, 0.5, degrees / (degrees + t * t));
    if t < 0.0 { tail } else { 1.0 - tail }
}

/// The t with P(T <= t) = p, by bisection on [`cdf`]; infinite at 0 and 1, not a number outside.
pub fn quantile(p: f64, degrees: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) || degrees.is_nan() || degrees <= 0.0 {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let tail = p.min(1.0 - p);
    let (mut low, mut high) = (0.0, 1.0);
    while cdf(-high, degrees) > tail && high < 1e300 {
        high *= 2.0;
    }
    // 200 halvings reach neighbouring floats from any bracket met above; the loop stops there.
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if cdf(-middle, degrees) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    let t = 0.5 * (low + high);
    if p < 0.5 { -t } else { t }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of printed t tables (two-sided 95% and 99%).
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (p, degrees, t) in [
            (0.975, 1.0, 12.706_204_7),
            (0.975, 2.0, 4.302_652_7),
            (0.975, 10.0, 2.228_138_9),
            (0.975, 29.0, 2.045_229_6),
            (0.995, 5.0, 4.032_142_98),
            (0.025, 10.0, -2.228_138_9),
        ] {
            assert!((quantile(p, degrees) - t).abs() < 1e-6, "{p} {degrees}: {}", quantile(p, degrees));
        }
        assert!(quantile(0.5, 3.0).abs() < 1e-12);
        assert!(quantile(0.5, 0.0).is_nan());
    }

    #[test]
    fn many_degrees_of_freedom_are_normal() {
        for z in [-2.0, -0.3, 0.0, 1.5] {
            assert!((cdf(z, 1e7) - crate::normal::cdf(z)).abs() < 1e-7);
        }
    }

    #[test]
    fn one_degree_is_cauchy() {
        for t in [-3.0f64, 0.5, 20.0] {
            let cauchy = 0.5 + t.atan() / std::f64::consts::PI;
            assert!((cdf(t, 1.0) - cauchy).abs() < 1e-12);
        }
    }
}
