//! Keep the newest tokens and, of the older ones, what those newest attend to.
//!
//! Ghadia et al., "Dialogue Without Limits: Constant-Sized KV Caches for Extended Responses in LLMs" (MorphKV), arXiv
//! 2503.00979. The last `window_size` tokens stay; an older slot is scored by the attention their queries give it,
//! summed (or the largest) over the queries and the group of a kv head. Meant for decode, with a short interval.

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, recent};
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// How the votes of several queries are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// They are added.
    #[default]
    Sum,
    /// The largest counts.
    Max,
}

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MorphKv {
    /// Newest tokens, which stay and whose queries vote.
    pub window_size: usize,
    /// How votes are put together.
    pub fusion: Fusion,
}

impl Default for MorphKv {
    fn default() -> Self {
        MorphKv { window_size: 32, fusion: Fusion::Sum }
    }
}

impl Build for MorphKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.window_size == 0 {
            return Err(bad("morphkv", "window_size", 0, "at least 1 token"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for MorphKv {
    fn name(&self) -> &'static str {
        "morphkv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.window_size, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: self.window_size }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, "morphkv", self.window_size)?;
        let reduce = match self.fusion {
            Fusion::Sum => Reduce::Sum,
            Fusion::Max => Reduce::Max,
        };
        let votes = columns(layer, &queries, None, reduce)?;
        for (row, votes) in scores.rows_mut().iter_mut().zip(votes.chunks_exact(layer.group())) {
            for column in votes {
                for (score, &vote) in row.iter_mut().zip(column) {
                    *score = match self.fusion {
                        Fusion::Max if !vote.is_nan() => score.max(vote),
                        _ => *score + vote,
                    };
                }
            }
        }
        Ok(())
    }
}
