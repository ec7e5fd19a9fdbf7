//! The small row-wise steps between the big kernels: norms, rotation, activations, sums.
//!
//! Each is ONE safe loop that the compiler vectorises, compiled twice: for the portable baseline and for AVX2. No
//! fused multiply-add is used, so both give the same bits, and so does any number of threads: rows (or values) are
//! independent and each row is summed in one fixed order.
//!
//! Work is spread over the pool from [`PARALLEL_VALUES`] on; less is done inline, because waking a thread costs a few
//! microseconds, which is about what a core needs for that much.

mod activation;
mod adam;
mod elementwise;
pub mod exp;
mod gelu;
mod hadamard;
mod layer_norm;
mod norm;
mod rope;
mod softmax;
mod sums;

pub use activation::{gelu_tanh_mul, silu_mul};
pub use adam::{AdamState, AdamStep, adam};
pub use elementwise::{add, add_bias, scale, softcap};
pub use gelu::{bias_gelu_row, gelu, gelu_backward, gelu_row};
pub use hadamard::{hadamard, hadamard_row};
pub use layer_norm::{Affine, NormStats, layer_norm, layer_norm_again, layer_norm_backward, layer_norm_stats};
pub(crate) use norm::rms_norm_rows;
pub use norm::{l2_norm, rms_norm, rms_norm_inplace};
pub use rope::rope;
pub use softmax::{exp_row, softmax_row};
pub(crate) use softmax::{scale_row, softmax_backward_row};
pub use sums::{add_column_sums, add_scaled, scale_columns};

use crate::pool::Pool;

/// Values a thread is given at least; with fewer than twice as many the caller does all of it inline.
pub const PARALLEL_VALUES: usize = 16 * 1024;

/// Calls `f(first row, rows)` on pieces of `data`, each a whole number of rows of `row` values.
fn by_rows(pool: &Pool, data: &mut [f32], row: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if data.is_empty() {
        return;
    }
    if data.len() < 2 * PARALLEL_VALUES || pool.threads() == 1 {
        return f(0, data);
    }
    let rows = PARALLEL_VALUES.div_ceil(row.max(1));
    pool.chunks(data, rows * row, |chunk, piece| f(chunk * rows, piece));
}

/// Runs `body(args)` compiled for AVX2 if the level allows it, and the portable build of the same code otherwise.
macro_rules! compiled_twice {
    ($isa:expr, $body:ident($($arg:ident: $type:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) {
                $body($($arg),*)
            }
            if $isa.runs_avx2() {
                // SAFETY: `runs_avx2` has just said that the processor has AVX2.
                return unsafe { avx2($($arg),*) };
            }
        }
        let _ = $isa;
        $body($($arg),*)
    }};
}
use compiled_twice;

/// [`compiled_twice`] and once more for AVX-512: for loops bound by arithmetic, such as exponentials.
macro_rules! compiled_for_all {
    ($isa:expr, $body:ident($($arg:ident: $type:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            fn avx512($($arg: $type),*) {
                $body($($arg),*)
            }
            if $isa.runs_avx512() {
                // SAFETY: `runs_avx512` has just said that the processor has these.
                return unsafe { avx512($($arg),*) };
            }
        }
        $crate::ops::compiled_twice!($isa, $body($($arg: $type),*))
    }};
}
use compiled_for_all;
