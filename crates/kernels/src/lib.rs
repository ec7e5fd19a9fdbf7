//! SIMD kernels, memory and the thread pool: all the unsafe code of Meden.
//!
//! Nothing here knows a model, a file format or a policy. The crate takes plain slices, so that whatever
//! stands above it stays free of `unsafe` and of any tensor type. Every kernel has a scalar twin, chosen
//! by [`isa::Isa`] once when weights are loaded; the twin is what the tests hold the fast path against.
#![allow(unsafe_code)]

pub mod attention;
mod cores;
pub mod dtype;
mod error;
pub mod gemm;
pub mod grouped;
pub mod isa;
pub mod limits;
pub mod matmul;
pub mod mem;
pub mod ops;
pub mod pool;
pub mod sparse;
pub mod weights;

pub use dtype::DType;
pub use error::KernelError;
pub use isa::Isa;
pub use matmul::{Activations, Matrix, matmul, matmul_many};
pub use pool::Pool;
