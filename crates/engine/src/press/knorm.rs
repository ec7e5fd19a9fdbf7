//! Keep the keys of lowest L2 norm: `S(h, p) = -||K[h, p]||`.
//!
//! Devoto, Zhao, Scardapane, Minervini, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
//! EMNLP 2024, arXiv 2406.11430. The sign is a famous trap: low norms are kept, because low-norm keys receive high
//! attention later. Norms come from the f32 key at append, so the choice does not depend on the cache's type.

use super::{Needs, Press, PressPoint};
use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// The paper's press.
pub struct Knorm;

impl Press for Knorm {
    fn name(&self) -> &'static str {
        "knorm"
    }

    fn needs(&self) -> Needs {
        Needs { key_norms: true, ..Needs::default() }
    }

    fn score(&self, _: PressPoint, head: &HeadCache, out: &mut [f32]) -> Result<(), EngineError> {
        out.iter_mut().zip(head.norms()).for_each(|(score, norm)| *score = -norm);
        Ok(())
    }
}
