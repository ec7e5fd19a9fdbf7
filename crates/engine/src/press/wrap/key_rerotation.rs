//! Rotate the keys that stay to positions 0, 1, … and let the next token go on from there.
//!
//! What attention sinks with a rolling cache do (Xiao et al., arXiv 2309.17453, transformers' SinkCache): distances
//! shrink to those inside the cache, so a text may be longer than the model's context. All layers have to keep the same
//! number, so no layer may be skipped or slide.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::Build;
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRerotation {
    /// The press that scores.
    pub press: Box<PressSpec>,
}

impl Default for KeyRerotation {
    fn default() -> Self {
        let streaming = crate::press::score::streaming_llm::StreamingLlm::default();
        KeyRerotation { press: Box::new(PressSpec::StreamingLlm(streaming)) }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
}

impl Build for KeyRerotation {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        Ok(Arc::new(Ready { inner: super::scorer("key_rerotation", &self.press)? }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "key_rerotation"
    }

    super::passes_on!(needs, score, protects, observe, choose, layer_target, only_at_prefill_end, check);

    fn renumbers(&self) -> bool {
        true
    }
}
