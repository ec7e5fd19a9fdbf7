//! y = x Wᵀ for m rows of activations and a weight in any format.
//!
//! * `matrix`: a weight in its one resident layout, rows interleaved in panels (see `weights::panel`).
//! * `activations`: the m rows, with their int8 copy made once and shared by all matrices they meet.
//! * `plan`: cuts the jobs of one call into tasks for the pool.
//! * `scalar`, `quant_avx2`, `quant_vnni`, `quant_amx`, `float_avx2`, `float_avx512`: panels times some rows;
//!   the only places that compute.
//!
//! Every output is one chain of additions along its row, in the same order whatever m, the number of
//! threads and the cut into tasks are, so results are the same to the bit in prefill and decode. (The
//! scalar twin rounds each product and so differs in the last bits; the vector kernels do the same float
//! operations in the same order, so that AVX2, AVX-VNNI, AVX-512 and AMX agree to the bit.)

mod activations;
#[cfg(target_arch = "x86_64")]
mod float_avx2;
#[cfg(target_arch = "x86_64")]
mod float_avx512;
#[cfg(target_arch = "x86_64")]
mod float_tiles;
mod matrix;
mod plan;
#[cfg(target_arch = "x86_64")]
mod quant_amx;
#[cfg(target_arch = "x86_64")]
mod quant_avx2;
#[cfg(target_arch = "x86_64")]
mod quant_vnni;
#[cfg(target_arch = "x86_64")]
mod quantize_avx2;
mod scalar;

pub use activations::{Activations, Needs};
pub use matrix::Matrix;

use crate::KernelError;
use crate::pool::Pool;

/// y = x Wᵀ. `x`: (m, k), `w`: (n, k), `y`: (m, n), overwritten.
///
/// # Errors
/// Shapes disagree, or `x` was set without the copy that the format of `w` needs; `y` is then untouched.
pub fn matmul(pool: &Pool, x: &Activations, w: &Matrix, y: &mut [f32]) -> Result<(), KernelError> {
    matmul_many(pool, x, &mut [(w, y)])
}

/// The products of the same rows with several matrices (q, k, v; gate, up) in one parallel section, so that
/// small ones do not each pay for starting threads and leaving some idle at the end.
///
/// # Errors
/// As [`matmul`], before anything is written.
pub fn matmul_many(pool: &Pool, x: &Activations, jobs: &mut [(&Matrix, &mut [f32])]) -> Result<(), KernelError> {
    for (w, y) in jobs.iter() {
        check(x, w, y)?;
    }
    plan::run(pool, x, jobs);
    Ok(())
}

fn check(x: &Activations, w: &Matrix, y: &[f32]) -> Result<(), KernelError> {
    if x.cols() != w.cols() {
        let what = "columns of the activations against columns of the weight";
        return Err(KernelError::Mismatch { what, left: x.cols(), right: w.cols() });
    }
    if y.len() != x.rows() * w.rows() {
        let what = "values in the output against rows of activations x rows of the weight";
        return Err(KernelError::Mismatch { what, left: y.len(), right: x.rows() * w.rows() });
    }
    if !x.serves(w.dtype()) {
        return Err(KernelError::ActivationsLack(w.dtype()));
    }
    Ok(())
}
