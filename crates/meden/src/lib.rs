//! Meden as a library: one name for each of its rooms.
//!
//! *Meden agan*, nothing in excess: language models on the CPU whose key-value cache never grows past a budget, and
//! whose inside can be seen. The rooms in the order the data flows:
//!
//! - [`files`]: from a model's name to open files (GGUF, safetensors)
//! - [`engine`]: tokenizer, model, cache, presses, sessions
//! - [`lens`]: capture, logit lens, attribution, patching
//! - [`eval`]: judges, perplexity so far
//! - [`vision`]: image models
//! - [`train`]: tuning them
//! - [`kernels`], [`report`], [`stats`]: what the others stand on
//!
//! ```no_run
//! use meden::engine::text::Tokenizer;
//! use meden::engine::{Budget, Control, LoadOptions, Model, Policy, PressSpec, Session, SessionOptions};
//! use meden::files::{ModelFiles, source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let path = source::resolve("smollm2", &source::ResolveOptions::from_env(), &mut source::Silent)?;
//! let files = ModelFiles::open(&path)?;
//! let tokenizer = Tokenizer::load(&files)?;
//! let model = Model::load(&files, &LoadOptions::default())?;
//!
//! // Keep the keys of lowest norm, at most 512 tokens a layer, whatever the length of the text.
//! let policy = Policy::new(PressSpec::knorm(), Budget::Tokens(512));
//! let mut session = Session::new(model, SessionOptions { policy: Some(policy), ..SessionOptions::default() })?;
//! let logits = session.prefill(&tokenizer.encode("Call me", true)?, &mut Control::default())?;
//! assert_eq!(logits.len(), tokenizer.vocab_size());
//! println!("{} bytes in the cache", session.stats().kv_bytes);
//! # Ok(())
//! # }
//! ```

pub use meden_engine as engine;
pub use meden_eval as eval;
pub use meden_files as files;
pub use meden_kernels as kernels;
pub use meden_lens as lens;
pub use meden_report as report;
pub use meden_stats as stats;
pub use meden_train as train;
pub use meden_vision as vision;
