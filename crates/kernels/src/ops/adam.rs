//! Adam (Kingma & Ba, 2014) with decoupled weight decay (Loshchilov & Hutter, 2017): one step of some parameters.

use super::compiled_twice;
use crate::isa::Isa;
use crate::pool::{Pool, SendPtr};

/// One step's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay: parameters shrink by `rate * decay` of themselves first.
    pub decay: f32,
    /// Which update of these parameters this is, from 1 on: corrects the moments' start at zero.
    pub step: u64,
}

/// Parameters with what an update needs.
pub struct AdamState<'a> {
    /// The values.
    pub values: &'a mut [f32],
    /// First moments.
    pub first: &'a mut [f32],
    /// Second moments.
    pub second: &'a mut [f32],
}

const PIECE: usize = 16 * 1024;

/// Updates values and moments by `gradient`, each of its values times `gradient_scale` (clipping).
///
/// # Panics
/// If lengths differ.
pub fn adam(pool: &Pool, isa: Isa, state: AdamState, gradient: &[f32], gradient_scale: f32, step: AdamStep) {
    let AdamState { values, first, second } = state;
    let len = values.len();
    assert!(first.len() == len && second.len() == len && gradient.len() == len, "adam: four operands");
    let power = i32::try_from(step.step).unwrap_or(i32::MAX);
    let correct = |beta: f32| 1.0 - f64::from(beta).powi(power);
    let constants = [
        (f64::from(step.rate) / correct(step.beta1)) as f32,
        (1.0 / correct(step.beta2).sqrt()) as f32,
        (1.0 - f64::from(step.rate) * f64::from(step.decay)) as f32,
        gradient_scale,
    ];
    let parts = [values, first, second].map(|part| SendPtr(part.as_mut_ptr()));
    pool.run(len.div_ceil(PIECE), &|piece| {
        let (from, count) = (piece * PIECE, PIECE.min(len - piece * PIECE));
        // SAFETY: pieces are disjoint and within the three slices, which stay borrowed until `run` returns.
        let [values, first, second] =
            [0, 1, 2].map(|i| unsafe { std::slice::from_raw_parts_mut(parts[i].get().add(from), count) });
        update(isa, (values, first, second), &gradient[from..from + count], step, constants);
    });
}

fn update(isa: Isa, state: (&mut [f32], &mut [f32], &mut [f32]), g: &[f32], step: AdamStep, constants: [f32; 4]) {
    compiled_twice!(
        isa,
        body(state: (&mut [f32], &mut [f32], &mut [f32]), g: &[f32], step: AdamStep, constants: [f32; 4])
    )
}

#[inline(always)]
fn body(
    (values, first, second): (&mut [f32], &mut [f32], &mut [f32]),
    g: &[f32],
    step: AdamStep,
    [rate, root, keep, scale]: [f32; 4],
) {
    for (((w, m), v), g) in values.iter_mut().zip(first).zip(second).zip(g) {
        let g = g * scale;
        *m = step.beta1 * *m + (1.0 - step.beta1) * g;
        *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
        *w = *w * keep - rate * *m / (v.sqrt() * root + step.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_formula_of_the_paper() {
        let pool = Pool::new(2);
        let (mut w, mut m, mut v) = (vec![1.0f32; 5], vec![0.1; 5], vec![0.2; 5]);
        let step = AdamStep { rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-4, decay: 0.05, step: 3 };
        let state = AdamState { values: &mut w, first: &mut m, second: &mut v };
        adam(&pool, Isa::best(), state, &[0.5; 5], 2.0, step);
        let m1 = 0.9 * 0.1f64 + 0.1 * 1.0;
        let v1 = 0.999 * 0.2f64 + 0.001 * 1.0;
        let (m_hat, v_hat) = (m1 / (1.0 - 0.9f64.powi(3)), v1 / (1.0 - 0.999f64.powi(3)));
        let expected = 1.0 - 1e-2 * 0.05 - 1e-2 * m_hat / (v_hat.sqrt() + 1e-4);
        assert!((f64::from(w[0]) - expected).abs() < 1e-6, "{} not {expected}", w[0]);
        assert!(w.iter().all(|v| *v == w[0]));
    }
}
