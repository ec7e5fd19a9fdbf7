//! How far back each head looks: the on-the-fly stand-in of kvpress for DuoAttention's trained gates (arXiv
//! 2410.10819).
//!
//! The mean query and the mean key of a sequence, before rotation, are put at positions 0 to 499; the last query's
//! attention is summed up from the front, and the mean of those sums is the head's score: much attention late, on the
//! nearest tokens, makes it small, and the heads of the lowest scores are the ones that may stream. Keys and queries
//! are taken after their norms where the model has them.

use std::path::Path;
use std::sync::{Arc, Mutex};

use meden_files::{AtomicFile, FileError};
use serde_json::{Map, Value};

use super::{Tensor, Texts};
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::rope::RopeTable;
use crate::press::own::duo_attention::{HEADS, SETTINGS};
use crate::press::rotation::unrotated_rows;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

const LENGTH: usize = 500;
/// First tokens that a streaming head keeps, and newest, as for the published stand-in.
const SINKS: usize = 128;
const RECENTS: usize = 256;

/// Sums of one sequence: queries `(q_heads, head_dim)`, keys `(kv_heads, head_dim)`.
#[derive(Clone, Default)]
struct Sums {
    queries: Vec<f64>,
    keys: Vec<f64>,
    tokens: f64,
}

struct Gather {
    layers: Mutex<Vec<Sums>>,
}

impl Press for Gather {
    fn name(&self) -> &'static str {
        "duo_attention"
    }

    fn needs(&self) -> Needs {
        Needs { query_mean: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Err(layer.missing(self.name(), "score while it gathers"))
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        let c = piece.model.config();
        let Ok(mut layers) = self.layers.lock() else { return Ok(()) };
        let sums = &mut layers[piece.layer];
        sums.queries.resize(c.q_heads * c.head_dim, 0.0);
        sums.keys.resize(c.kv_heads * c.head_dim, 0.0);
        for row in piece.q_unrotated.chunks_exact(c.q_heads * c.head_dim) {
            sums.queries.iter_mut().zip(row).for_each(|(sum, &q)| *sum += f64::from(q));
        }
        let spec = &c.ropes[c.attention[piece.layer].rope];
        for (head, sums) in cache.heads().iter().zip(sums.keys.chunks_exact_mut(c.head_dim)) {
            let first = head.len() - piece.positions.len();
            let mut keys = vec![0f32; piece.positions.len() * c.head_dim];
            for (at, key) in keys.chunks_exact_mut(c.head_dim).enumerate() {
                head.key(first + at, key);
            }
            unrotated_rows(spec, false, piece.positions, &mut keys);
            for key in keys.chunks_exact(c.head_dim) {
                sums.iter_mut().zip(key).for_each(|(sum, &k)| *sum += f64::from(k));
            }
        }
        sums.tokens += piece.positions.len() as f64;
        Ok(())
    }
}

pub(super) fn run(texts: &mut Texts<'_, '_>) -> Result<Vec<Tensor>, EngineError> {
    let c = texts.model.config().clone();
    let gather = Arc::new(Gather { layers: Mutex::new(vec![Sums::default(); c.layers]) });
    let mut scores = vec![0f64; c.layers * c.kv_heads];
    let share = 1.0 / texts.sequences.len() as f64;
    let positions: Vec<u32> = (0..LENGTH as u32).collect();
    let tables: Vec<RopeTable> = c
        .ropes
        .iter()
        .map(|spec| {
            let mut table = RopeTable::default();
            spec.fill(&positions, false, &mut table);
            table
        })
        .collect();
    texts.read(&[gather.clone() as Arc<dyn Press>], |_, _| {
        let mut layers = gather.layers.lock().map_err(|_| EngineError::Poisoned)?;
        for (layer, sums) in layers.iter_mut().enumerate() {
            let sums = std::mem::take(sums);
            if sums.tokens == 0.0 {
                continue; // a sliding layer
            }
            for q_head in 0..c.q_heads {
                let of = |all: &[f64], head: usize| -> Vec<f64> {
                    all[head * c.head_dim..(head + 1) * c.head_dim].iter().map(|s| s / sums.tokens).collect()
                };
                let kv_head = q_head / c.group();
                let (q, k) = (of(&sums.queries, q_head), of(&sums.keys, kv_head));
                let table = &tables[c.attention[layer].rope];
                let late = lateness((&q, &k), table, f64::from(c.attention_scale));
                scores[layer * c.kv_heads + kv_head] += share * late / c.group() as f64;
            }
        }
        Ok(())
    })?;
    let values = scores.iter().map(|&s| s as f32).collect();
    Ok(vec![Tensor { name: "full_attention_heads".into(), shape: vec![c.layers, c.kv_heads], values }])
}

/// The published folder: a table with a line a layer and a column a kv head, and the sizes of what streaming heads keep.
/// A reader that knows `sink_size` and `recent_size` only passes over the rest of `config.json`.
pub(super) fn write(folder: &Path, tensors: &[Tensor], about: &[(&str, &str)]) -> Result<(), EngineError> {
    let fail = |source| FileError::Io { path: folder.to_owned(), action: "make the folder".into(), source };
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut table = String::new();
    for tensor in tensors {
        for row in tensor.values.chunks_exact(tensor.shape.last().copied().unwrap_or(1).max(1)) {
            table += &row.iter().map(f32::to_string).collect::<Vec<_>>().join("\t");
            table.push('\n');
        }
    }
    let mut config: Map<String, Value> = about.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
    config.insert("sink_size".into(), SINKS.into());
    config.insert("recent_size".into(), RECENTS.into());
    let config = format!("{:#}\n", Value::Object(config));
    AtomicFile::whole(&folder.join(HEADS), table.as_bytes())?;
    Ok(AtomicFile::whole(&folder.join(SETTINGS), config.as_bytes())?)
}

/// The mean of the running sums of the last query's attention to copies of one key.
fn lateness((q, k): (&[f64], &[f64]), table: &RopeTable, scale: f64) -> f64 {
    let pairs = table.cos.len() / LENGTH;
    let turned = |x: &[f64], position: usize| -> Vec<f64> {
        let mut out = x.to_vec();
        for i in 0..pairs {
            let (cos, sin) = (f64::from(table.cos[position * pairs + i]), f64::from(table.sin[position * pairs + i]));
            out[i] = x[i] * cos - x[i + pairs] * sin;
            out[i + pairs] = x[i + pairs] * cos + x[i] * sin;
        }
        out
    };
    let last = turned(q, LENGTH - 1);
    let dot = |k: Vec<f64>| k.iter().zip(&last).map(|(k, q)| k * q).sum::<f64>() * scale;
    let logits: Vec<f64> = (0..LENGTH).map(|p| dot(turned(k, p))).collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    // a weight at position p is counted in the sums from p on
    logits.iter().enumerate().map(|(p, l)| (l - top).exp() / total * (LENGTH - p) as f64 / LENGTH as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_to_the_nearest_makes_a_low_score() {
        let spec = crate::model::rope::RopeSpec::new(4, 10_000.0, &crate::model::rope::RopeScaling::None).unwrap();
        let mut table = RopeTable::default();
        spec.fill(&(0..LENGTH as u32).collect::<Vec<_>>(), false, &mut table);
        let flat = lateness((&[0.0; 4], &[0.0; 4]), &table, 1.0);
        assert!((flat - 501.0 / 1000.0).abs() < 1e-9, "{flat}");
        // the slow pair: attention grows towards the query's own position
        let near = lateness((&[0.0, 9.0, 0.0, 0.0], &[0.0, 9.0, 0.0, 0.0]), &table, 1.0);
        assert!(near < 0.2, "{near}");
    }
}
