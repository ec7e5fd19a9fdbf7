//! Streaming heads keep their first and newest tokens, retrieval heads keep everything.
//!
//! Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv
//! 2410.10819. Which heads stream is trained, and published as a folder with `full_attention_heads.tsv` (a line a layer,
//! a column a kv head: how much the head needs the whole text) and `config.json` (`sink_size`, `recent_size`). `meden kv
//! calibrate` makes such a folder for any model, without training. The `head_compression_ratio` lowest of all heads
//! stream, heads with a sliding window apart. What a streaming head drops is really freed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data;
use crate::press::data_file::Calibrated;
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

/// How much each head needs the whole text.
pub(crate) const HEADS: &str = "full_attention_heads.tsv";
/// What streaming heads keep.
pub(crate) const SETTINGS: &str = "config.json";

/// The part of `config.json` that matters here. What was calibrated here also names its press and model.
#[derive(Deserialize)]
struct Settings {
    sink_size: usize,
    recent_size: usize,
    press: Option<String>,
    model: Option<String>,
}

struct Ready {
    pattern: PathBuf,
    settings: Settings,
    /// `(layers, kv_heads)`.
    scores: Vec<Vec<f64>>,
    ratio: f64,
    /// Which heads stream, `(layers, kv_heads)`, once the model is known.
    streaming: OnceLock<Vec<Vec<bool>>>,
}

/// The lowest `ratio` of the heads of some layers; equal ones in the order of layers and heads.
fn lowest(scores: &[Vec<f64>], layers: impl Fn(usize) -> bool, ratio: f64) -> Vec<Vec<bool>> {
    let rows = scores.iter().enumerate().filter(|(layer, _)| layers(*layer));
    let mut order: Vec<(usize, usize)> =
        rows.flat_map(|(layer, row)| (0..row.len()).map(move |head| (layer, head))).collect();
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
                why: "parameter `pattern` is missing: a folder with full_attention_heads.tsv and config.json, as published for some models (mit-han-lab/duo-attention, attn_patterns), or as `meden kv calibrate --press duo_attention` makes it".to_string(),
            });
        };
        let scores = data::table(name, &pattern.join(HEADS))?;
        let config = pattern.join(SETTINGS);
        let settings = serde_json::from_str(&data::text(name, &config, 1 << 20)?)
            .map_err(|error| data::refuse(name, &config, error))?;
        let (pattern, ratio) = (pattern.clone(), self.head_compression_ratio);
        Ok(Arc::new(Ready { pattern, settings, scores, ratio, streaming: OnceLock::new() }))
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
        let found = (self.scores.len(), self.scores.first().map_or(0, Vec::len));
        if found == (config.layers, config.kv_heads) {
            return Ok(());
        }
        let why = format!(
            "{} layers of {} kv heads, the model has {} of {}: this pattern is another model's",
            found.0, found.1, config.layers, config.kv_heads
        );
        Err(data::refuse(self.name(), &self.pattern, why))
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        let source = self.pattern.display().to_string();
        let (press, made_for) = (self.settings.press.clone(), self.settings.model.clone());
        Calibrated { source, press, model: made_for }.fits(self.name(), model)
    }

    fn score(&self, _: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, _: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let stay = protect.and(Protect { sinks: self.settings.sink_size, recents: self.settings.recent_size });
        let slides = |number: usize| layer.config().attention[number].window.is_some();
        let streaming = self.streaming.get_or_init(|| lowest(&self.scores, |number| !slides(number), self.ratio));
        let mut keep = Keep::with_capacity(layer.heads.len());
        for (number, head) in layer.heads.iter().enumerate() {
            let (streams, positions) = (streaming[layer.layer][number], head.positions());
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
        assert_eq!(lowest(&scores, |_| true, 0.25), [vec![false, false], vec![true, false]]);
        assert_eq!(lowest(&scores, |_| true, 0.5), [vec![false, false], vec![true, true]]);
        assert_eq!(lowest(&scores, |_| true, 0.0), [vec![false, false], vec![false, false]]);
        // a layer that slides bounds itself: the share is one of the others
        assert_eq!(lowest(&scores, |layer| layer == 0, 0.5), [vec![false, true], vec![false, false]]);
    }
}
