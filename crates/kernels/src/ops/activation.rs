//! Gated activations: `gate <- act(gate) * up`.

use super::exp::exp;
use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::Pool;

/// SiLU gate: `gate <- gate / (1 + e^-gate) * up`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(pool: &Pool, isa: Isa, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "silu: gate and up");
    by_rows(pool, gate, 1, |first, gate| silu(isa, gate, &up[first..][..gate.len()]));
}

fn silu(isa: Isa, gate: &mut [f32], up: &[f32]) {
    compiled_twice!(isa, silu_body(gate: &mut [f32], up: &[f32]))
}

#[inline(always)]
fn silu_body(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// GELU gate in its tanh form (Hendrycks & Gimpel, 2016), as Gemma uses it:
/// `gate <- gate / 2 (1 + tanh(sqrt(2 / pi) (gate + 0.044715 gate^3))) * up`.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_tanh_mul(pool: &Pool, isa: Isa, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gelu: gate and up");
    by_rows(pool, gate, 1, |first, gate| gelu(isa, gate, &up[first..][..gate.len()]));
}

fn gelu(isa: Isa, gate: &mut [f32], up: &[f32]) {
    compiled_twice!(isa, gelu_body(gate: &mut [f32], up: &[f32]))
}

#[inline(always)]
fn gelu_body(gate: &mut [f32], up: &[f32]) {
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u): one exponential, and nothing cancels.
    const TWICE_ROOT: f32 = 1.595_769;
    for (g, u) in gate.iter_mut().zip(up) {
        let inner = TWICE_ROOT * (*g + 0.044_715 * *g * *g * *g);
        *g = *g / (1.0 + exp(-inner)) * u;
    }
}
