//! Keep what the last query attends to, averaged over all heads, the same set for every head.
//!
//! Oren et al., "Transformers are Multi-State RNNs", arXiv 2401.06104.

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, recent};
use crate::press::select::Protect;
use crate::press::spec::ready;
use crate::press::view::sum_by_position;
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
        let held = |q_head: usize| layer.heads[q_head / layer.group()].positions();
        let (positions, sums) = sum_by_position(columns.iter().enumerate().map(|(q, column)| (held(q), &column[..])));
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            for (score, position) in row.iter_mut().zip(head.positions()) {
                let at = positions.partition_point(|p| p < position);
                *score = (sums[at] / columns.len() as f64) as f32;
            }
        }
        Ok(())
    }
}
