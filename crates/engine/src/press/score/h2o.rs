//! Heavy hitters: half of the budget to the slots that received most attention, half to the newest.
//!
//! Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", arXiv
//! 2306.14048. The attention a key received is summed over all queries; with B slots, B/2 are the newest.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::select::Protect;
use crate::press::spec::ready;
use crate::press::watch::ATTENTION_MASS;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct H2o {}

ready!(H2o);

impl Press for H2o {
    fn name(&self) -> &'static str {
        "h2o"
    }

    fn needs(&self) -> Needs {
        Needs { attention_mass: true, ..Needs::default() }
    }

    fn protects(&self, target: usize) -> Protect {
        Protect { sinks: 0, recents: target / 2 }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            let mass = head.column(ATTENTION_MASS).ok_or_else(|| layer.missing(self.name(), "attention mass"))?;
            row.copy_from_slice(mass);
        }
        Ok(())
    }
}
