//! The same by masks: for each learner the tokens that ask for it are gathered, run and scattered.

use super::{Activation, Learners, Residual, check};
use crate::KernelError;
use crate::gemm::{Options, View, gemm};
use crate::isa::Isa;
use crate::ops;
use crate::pool::Pool;

/// What [`super::grouped_ffn`] gives, the plain way: N gathers, N scatters, an allocation for each. Kept as what the tests
/// hold the fast one against, and as what benchmarks compare it with.
///
/// # Errors
/// As [`super::grouped_ffn`].
pub fn masked_ffn(
    (pool, isa): (&Pool, Isa),
    (x, k): (&[f32], &[u8]),
    learners: &Learners,
    residual: Residual,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check(x, k, learners, residual, out)?;
    let d = learners.width;
    let mut sums = vec![0.0; x.len()];
    for (n, learner) in learners.list.iter().enumerate() {
        let chosen: Vec<usize> = (0..k.len()).filter(|t| usize::from(k[*t]) > n).collect();
        if chosen.is_empty() {
            continue;
        }
        let gathered: Vec<f32> = chosen.iter().flat_map(|t| x[t * d..][..d].to_vec()).collect();
        let w = learner.b1.len();
        let mut hidden = vec![0.0; chosen.len() * w];
        gemm(pool, isa, View::new(&gathered, d), &learner.w1, &mut hidden, Options::default());
        ops::add_bias(pool, isa, &mut hidden, &learner.b1);
        if learners.activation == Activation::Gelu {
            hidden.chunks_exact_mut(w).for_each(|row| ops::gelu_row(isa, row));
        }
        let mut part = vec![0.0; chosen.len() * d];
        gemm(pool, isa, View::new(&hidden, w), &learner.w2, &mut part, Options::default());
        for (token, part) in chosen.iter().zip(part.chunks_exact(d)) {
            sums[token * d..][..d].iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    for ((sum, out), k) in sums.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(k) {
        residual.add((*k > 0).then_some(sum), out);
    }
    Ok(())
}
