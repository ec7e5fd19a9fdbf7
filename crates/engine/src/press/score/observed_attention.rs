//! Keep what received most attention, per query that could see it.
//!
//! The score of H2O (Zhang et al., arXiv 2306.14048) as kvpress has it: the attention a key received, summed over all
//! queries, averaged over the group, divided by the number of queries that saw it. [`h2o`](super::h2o) is the paper's.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::watch::ATTENTION_MASS;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedAttention {}

ready!(ObservedAttention);

impl Press for ObservedAttention {
    fn name(&self) -> &'static str {
        "observed_attention"
    }

    fn needs(&self) -> Needs {
        Needs { attention_mass: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            let mass = head.column(ATTENTION_MASS).ok_or_else(|| layer.missing(self.name(), "attention mass"))?;
            for ((score, mass), &position) in row.iter_mut().zip(mass).zip(head.positions()) {
                *score = mass / (layer.next - position as usize) as f32;
            }
        }
        Ok(())
    }
}
