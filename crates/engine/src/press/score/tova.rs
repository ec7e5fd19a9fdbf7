//! Keep what the last query attends to, averaged over all heads, the same set for every head.
//!
//! Oren et al., "Transformers are Multi-State RNNs", arXiv 2401.06104.

use std::collections::BTreeMap;

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, recent};
use crate::press::select::Protect;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tova {}

ready!(Tova);

impl Press for Tova {
    fn name(&self) -> &'static str {
        "tova"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: 1, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: 1 }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let columns = columns(layer, &recent(layer, "tova", 1)?, None, Reduce::Sum)?;
        // by position, since heads of another press may hold different slots
        let mut mean = BTreeMap::<u32, f32>::new();
        for (q_head, column) in columns.iter().enumerate() {
            let positions = layer.heads[q_head / layer.group()].positions();
            for (&position, &weight) in positions.iter().zip(column) {
                *mean.entry(position).or_default() += weight / columns.len() as f32;
            }
        }
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            row.iter_mut().zip(head.positions()).for_each(|(score, position)| *score = mean[position]);
        }
        Ok(())
    }
}
