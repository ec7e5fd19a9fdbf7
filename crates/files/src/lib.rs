//! Model files: GGUF, safetensors, configuration, names and sources.
//!
//! The order of the data: a name becomes a path ([`source`]), a path becomes an open model
//! ([`ModelFiles`], over [`gguf`] or [`safetensors_file`] with [`hf`] settings), a tensor's name becomes
//! its bytes. Model files come from strangers, so every count, length and offset is held against the
//! file before anything is allocated or read by it; `attacks/` at the repository's root keeps files that
//! try it, and every one has to be refused with a [`FileError`] that says where and what to do.

mod atomic;
mod error;
mod fingerprint;
pub mod gguf;
pub mod hash;
pub mod hf;
mod json;
mod layout;
mod model_files;
pub mod names;
pub mod npy;
pub mod npz;
pub mod onnx;
pub mod quantize;
pub mod safetensors_file;

pub mod source;
mod storage;
mod tensor;
mod zip;

pub use atomic::AtomicFile;
pub use error::FileError;
pub use json::read as read_json;
pub use model_files::ModelFiles;
pub use tensor::{TensorInfo, UnsupportedTensor};
