//! Keep the first tokens and the newest: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
//! arXiv 2309.17453. Keys keep their true positions here (the paper numbers positions inside the cache).

use super::{Needs, Press, PressPoint};
use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// First tokens kept when nothing else is said.
pub fn default_sinks() -> usize {
    4
}

/// Sinks and a window of recent tokens.
pub struct StreamingLlm {
    /// First tokens that are kept, as far as the budget allows.
    pub n_sink: usize,
}

impl Press for StreamingLlm {
    fn name(&self) -> &'static str {
        "streaming_llm"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, _: PressPoint, _: &HeadCache, out: &mut [f32]) -> Result<(), EngineError> {
        // sinks first (the earliest best), then by age; slots stand in the order of their positions
        let slots = out.len();
        for (slot, score) in out.iter_mut().enumerate() {
            *score = if slot < self.n_sink { (2 * slots - slot) as f32 } else { slot as f32 };
        }
        Ok(())
    }
}
