//! Streaming heads keep their first and newest tokens, retrieval heads keep everything.
//!
//! Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv
//! 2410.10819. Which heads stream is trained, and published as a folder with `full_attention_heads.tsv` (a line a layer,
//! a column a kv head: how much the head needs the whole text) and `config.json` (`sink_size`, `recent_size`). The
//! `head_compression_ratio` lowest of all heads stream. What a streaming head drops is really freed.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::data;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DuoAttention {
    /// Folder with `full_attention_heads.tsv` and `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<PathBuf>,
    /// Share of all heads that stream, in [0, 1].
    pub head_compression_ratio: f64,
}

impl Default for DuoAttention {
    fn default() -> Self {
        DuoAttention { pattern: None, head_compression_ratio: 0.5 }
    }
}

/// The part of `config.json` that matters here.
#[derive(Deserialize)]
struct Sizes {
    sink_size: usize,
    recent_size: usize,
}

struct Ready {
    pattern: PathBuf,
    sizes: Sizes,
    /// `(layers, kv_heads)`.
    streaming: Vec<Vec<bool>>,
}

/// The lowest `ratio` of all heads; equal ones in the order of layers and heads.
fn lowest(scores: &[Vec<f64>], ratio: f64) -> Vec<Vec<bool>> {
    let mut order: Vec<(usize, usize)> =
        scores.iter().enumerate().flat_map(|(layer, row)| (0..row.len()).map(move |head| (layer, head))).collect();
    let count = (order.len() as f64 * ratio).round_ties_even() as usize;
    let score = |&(layer, head): &(usize, usize)| scores[layer][head].clamp(0.0, 1.0);
    order.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.cmp(b)));
    let mut streaming: Vec<Vec<bool>> = scores.iter().map(|row| vec![false; row.len()]).collect();
    order.iter().take(count).for_each(|&(layer, head)| streaming[layer][head] = true);
    streaming
}

impl Build for DuoAttention {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let name = "duo_attention";
        if !(0.0..=1.0).contains(&self.head_compression_ratio) {
            return Err(bad(name, "head_compression_ratio", self.head_compression_ratio, "between 0 and 1"));
        }
        let Some(pattern) = &self.pattern else {
            return Err(EngineError::Press {
                press: name.to_string(),
                why: "parameter `pattern` is missing: a folder with full_attention_heads.tsv and config.json, as published for some models (mit-han-lab/duo-attention, attn_patterns)".to_string(),
            });
        };
        let scores = data::table(name, &pattern.join("full_attention_heads.tsv"))?;
        let config = pattern.join("config.json");
        let sizes = serde_json::from_str(&data::text(name, &config, 1 << 20)?)
            .map_err(|error| data::refuse(name, &config, error))?;
        let streaming = lowest(&scores, self.head_compression_ratio);
        Ok(Arc::new(Ready { pattern: pattern.clone(), sizes, streaming }))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "duo_attention"
    }

    fn needs(&self) -> Needs {
        Needs { data: true, ..Needs::default() }
    }

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        let found = (self.streaming.len(), self.streaming.first().map_or(0, Vec::len));
        if found == (config.layers, config.kv_heads) {
            return Ok(());
        }
        let why = format!(
            "{} layers of {} kv heads, the model has {} of {}: this pattern is another model's",
            found.0, found.1, config.layers, config.kv_heads
        );
        Err(data::refuse(self.name(), &self.pattern, why))
    }

    fn score(&self, _: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, _: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let stay = protect.and(Protect { sinks: self.sizes.sink_size, recents: self.sizes.recent_size });
        let mut keep = Keep::with_capacity(layer.heads.len());
        for (number, head) in layer.heads.iter().enumerate() {
            let (streams, positions) = (self.streaming[layer.layer][number], head.positions());
            let slots = (0..head.len()).filter(|&slot| !streams || stay.covers(slot, positions));
            keep.push(slots.map(|slot| slot as u32).collect());
        }
        Ok(keep)
    }

    fn own_budget(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_heads_of_all_layers_stream() {
        let scores = vec![vec![0.9, 0.1], vec![-3.0, 0.0]];
        // below 0 counts as 0: a tie, which goes to the earlier head
        assert_eq!(lowest(&scores, 0.25), [vec![false, false], vec![true, false]]);
        assert_eq!(lowest(&scores, 0.5), [vec![false, false], vec![true, true]]);
        assert_eq!(lowest(&scores, 0.0), [vec![false, false], vec![false, false]]);
    }
}
