//! Keep the keys of highest L2 norm: the paper's control (arXiv 2406.11430), the opposite of its rule.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// The control.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnormHigh {}

ready!(KnormHigh);

impl Press for KnormHigh {
    fn name(&self) -> &'static str {
        "knorm_high"
    }

    fn needs(&self) -> Needs {
        Needs { key_norms: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| row.copy_from_slice(head.norms()));
        Ok(())
    }
}
