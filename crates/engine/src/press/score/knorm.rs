//! Keep the keys of lowest L2 norm: `S(h, p) = -||K[h, p]||`.
//!
//! Devoto, Zhao, Scardapane, Minervini, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
//! EMNLP 2024, arXiv 2406.11430. The sign is a famous trap: low norms are kept, because low-norm keys receive high
//! attention later. Norms come from the f32 key at append, so the choice does not depend on the cache's type.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// The paper's press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knorm {}

ready!(Knorm);

impl Press for Knorm {
    fn name(&self) -> &'static str {
        "knorm"
    }

    fn needs(&self) -> Needs {
        Needs { key_norms: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| row.iter_mut().zip(head.norms()).for_each(|(s, norm)| *s = -norm));
        Ok(())
    }
}
