//! Softmax of rows and its gradient, by the calling thread.

use super::exp::exp;
use super::{compiled_for_all, sums};
use crate::isa::Isa;

/// `x <- e^(x - max)`, the sum of which is put into `total`. The largest exponent is 0, so nothing overflows.
pub fn exp_row(isa: Isa, x: &mut [f32], total: &mut [f32; 1]) {
    compiled_for_all!(isa, exp_body(x: &mut [f32], total: &mut [f32; 1]))
}

#[inline(always)]
fn exp_body(x: &mut [f32], total: &mut [f32; 1]) {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let (whole, rest) = x.as_chunks::<32>();
    for x in whole {
        for (m, x) in lanes.iter_mut().zip(x) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    for (m, x) in lanes.iter_mut().zip(rest) {
        *m = if *x > *m { *x } else { *m };
    }
    let largest = lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    for x in x.iter_mut() {
        *x = exp(*x - largest);
    }
    total[0] = sums::sum_body(x);
}

/// `x <- softmax(x)`.
pub fn softmax_row(isa: Isa, x: &mut [f32]) {
    let mut total = [0.0];
    exp_row(isa, x, &mut total);
    scale_row(isa, x, 1.0 / total[0]);
}

/// `x <- x * factor`.
pub(crate) fn scale_row(isa: Isa, x: &mut [f32], factor: f32) {
    compiled_for_all!(isa, scale_body(x: &mut [f32], factor: f32))
}

#[inline(always)]
fn scale_body(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `dp <- p * (dp - sum(p dp)) * scale`: from the gradient of probabilities to that of scores before their scale.
pub(crate) fn softmax_backward_row(isa: Isa, p: &[f32], dp: &mut [f32], scale: f32) {
    compiled_for_all!(isa, backward_body(p: &[f32], dp: &mut [f32], scale: f32))
}

#[inline(always)]
fn backward_body(p: &[f32], dp: &mut [f32], scale: f32) {
    let sum = sums::dot_body(p, dp);
    for (d, p) in dp.iter_mut().zip(p) {
        *d = p * (*d - sum) * scale;
    }
}
