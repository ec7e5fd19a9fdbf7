//! Keep the first tokens and the newest: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
//! arXiv 2309.17453. Keys keep their true positions here; the paper numbers positions inside the cache, which is
//! `key_rerotation(streaming_llm)`.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// Sinks and a window of recent tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamingLlm {
    /// First tokens that are kept, as far as the budget allows.
    pub n_sink: usize,
}

impl Default for StreamingLlm {
    fn default() -> Self {
        StreamingLlm { n_sink: 4 }
    }
}

ready!(StreamingLlm);

impl Press for StreamingLlm {
    fn name(&self) -> &'static str {
        "streaming_llm"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        // sinks first (the earliest best), then by age; slots stand in the order of their positions
        scores.each(layer, |_, head, row| {
            let slots = head.len();
            for (slot, score) in row.iter_mut().enumerate() {
                *score = if slot < self.n_sink { (2 * slots - slot) as f32 } else { slot as f32 };
            }
        });
        Ok(())
    }
}
