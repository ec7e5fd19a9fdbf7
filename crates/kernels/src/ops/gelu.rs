//! GELU by the error function (Hendrycks & Gimpel, 2016), `x Phi(x)`, and its derivative.
//!
//! The tail of Phi is `e^(-u^2) t P(t) / 2` with u = |x| / sqrt 2 and t = 1 / (1 + 0.45 u), the form that Hastings
//! (Approximations for Digital Computers, 1955) gave it; P is a minimax fit of degree 6 made for this file, whose error is
//! below 1.1e-9 of erf. The negative half is the product itself, so nothing cancels there.

use super::exp::exp;
use super::{by_rows, compiled_for_all};
use crate::isa::Isa;
use crate::pool::Pool;

const P: f32 = 0.45;
const FIT: [f32; 7] =
    [0.092_569_33, -0.494_102_83, 0.857_164_8, -0.375_799_67, 0.460_168_79, 0.201_009_96, 0.258_989_6];
/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;

/// Phi(x) and the standard normal density at x.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let size = x.abs();
    let t = 1.0 / (1.0 + P * std::f32::consts::FRAC_1_SQRT_2 * size);
    let e = exp(-0.5 * x * x);
    let mut y = FIT[0];
    for a in &FIT[1..] {
        y = y * t + a;
    }
    let tail = 0.5 * y * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY * e)
}

/// `x <- x Phi(x)`, by the calling thread.
pub fn gelu_row(isa: Isa, x: &mut [f32]) {
    compiled_for_all!(isa, gelu_body(x: &mut [f32]))
}

#[inline(always)]
fn gelu_body(x: &mut [f32]) {
    for x in x {
        *x *= normal(*x).0;
    }
}

/// `x <- x + bias`, then `x <- x Phi(x)`, by the calling thread: how a feed-forward's first product ends.
///
/// # Panics
/// If lengths differ.
pub fn bias_gelu_row(isa: Isa, x: &mut [f32], bias: &[f32]) {
    assert_eq!(x.len(), bias.len(), "gelu: values and bias");
    compiled_for_all!(isa, bias_gelu_body(x: &mut [f32], bias: &[f32]))
}

#[inline(always)]
fn bias_gelu_body(x: &mut [f32], bias: &[f32]) {
    for (x, b) in x.iter_mut().zip(bias) {
        let v = *x + b;
        *x = v * normal(v).0;
    }
}

/// `out = x Phi(x)`.
///
/// # Panics
/// If lengths differ.
pub fn gelu(pool: &Pool, isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "gelu: input and output");
    by_rows(pool, out, 1, |first, out| {
        out.copy_from_slice(&x[first..first + out.len()]);
        gelu_row(isa, out);
    });
}

/// `dy <- dy * (Phi(x) + x phi(x))`.
///
/// # Panics
/// If lengths differ.
pub fn gelu_backward(pool: &Pool, isa: Isa, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "gelu: input and gradient");
    by_rows(pool, dy, 1, |first, dy| derivative(isa, &x[first..first + dy.len()], dy));
}

fn derivative(isa: Isa, x: &[f32], dy: &mut [f32]) {
    compiled_for_all!(isa, derivative_body(x: &[f32], dy: &mut [f32]))
}

#[inline(always)]
fn derivative_body(x: &[f32], dy: &mut [f32]) {
    for (d, &x) in dy.iter_mut().zip(x) {
        let (phi, density) = normal(x);
        *d *= phi + x * density;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its series, in f64: enough terms for |x| up to 5.
    fn phi(x: f64) -> f64 {
        let z = x / std::f64::consts::SQRT_2;
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn gelu_and_its_derivative_are_right_to_rounding() {
        let x: Vec<f32> = (-5000..=5000).map(|i| i as f32 / 1000.0).collect();
        let pool = Pool::new(2);
        for isa in Isa::available() {
            let (mut y, mut d) = (vec![0.0; x.len()], vec![1.0; x.len()]);
            gelu(&pool, isa, &x, &mut y);
            gelu_backward(&pool, isa, &x, &mut d);
            for ((&x, &y), &d) in x.iter().zip(&y).zip(&d) {
                let wide = f64::from(x);
                let rounding = 1.5e-7 * wide.abs().max(1.0);
                assert!((f64::from(y) - wide * phi(wide)).abs() < rounding, "gelu({x}) = {y}");
                let slope = phi(wide) + wide * (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
                assert!((f64::from(d) - slope).abs() < 2.0 * rounding, "gelu'({x}) = {d} not {slope}");
            }
        }
        let mut far = [-200.0, 200.0, f32::NAN];
        gelu_row(Isa::best(), &mut far);
        assert!(far[0] == 0.0 && far[1] == 200.0 && far[2].is_nan());
    }
}
