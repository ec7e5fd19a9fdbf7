//! Keep what trained gates expect KVzip to keep.
//!
//! Kim, Han & Yun, "Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction", arXiv 2601.17668. A gate
//! a layer reads what the attention block reads: queries `q = norm(Wq h + bq)` `(kv_heads, group, d)`, a key `k =
//! norm(Wk h)` `(kv_heads, d)`; with the base keys of the gate the score is the mean over the group of `1 / (1 + sum
//! exp(base.q/√d - k.q/√d - b))`. The first 4 tokens and the newest 2% (4096 from 32,000 tokens on) stay; the rest is
//! shared out as by KVzip.
//!
//! The gates are published as pickles, which are not read: a converted file holds the entries of the list as
//! `layers.i.` + `q_proj.weight`, `q_proj.bias`, `k_proj.weight`, `q_norm.weight`, `k_norm.weight`, `k_base` `(kv_heads,
//! 1, sinks, d)` and `b` `(kv_heads, 1, group)`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::kvzip::share_out;
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Data, DataFile, no_file};
use crate::press::linear::Trained;
use crate::press::select::Protect;
use crate::press::spec::Build;
use crate::press::trained::{Nets, read_column, write_newest};
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scope, Scores};

const NAME: &str = "fast_kvzip";
const SINKS: usize = 4;
const EPSILON: f32 = 1e-6;

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FastKvZip {
    /// The file with the gates.
    pub file: Option<PathBuf>,
    /// The same number goes from each layer.
    pub layerwise: bool,
}

struct Gate {
    q: (Data, Data),
    k: Data,
    q_norm: Data,
    k_norm: Data,
    base: Data,
    b: Data,
}

/// Gates, and the two products of each that the kernels run.
type Gates = Nets<Gate, (Trained, Trained)>;

struct Ready {
    gates: Option<Gates>,
    layerwise: bool,
}

impl Build for FastKvZip {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        Ok(Arc::new(Ready { gates: self.file.as_deref().map(load).transpose()?, layerwise: self.layerwise }))
    }
}

fn load(path: &Path) -> Result<Gates, EngineError> {
    let file = DataFile::open(path)?;
    let mut layers = Vec::new();
    while layers.is_empty() || file.has(&format!("layers.{}.q_proj.weight", layers.len())) {
        let layer = layers.len();
        let read = |name: &str| file.read(NAME, &format!("layers.{layer}.{name}"));
        layers.push(Gate {
            q: (read("q_proj.weight")?, read("q_proj.bias")?),
            k: read("k_proj.weight")?,
            q_norm: read("q_norm.weight")?,
            k_norm: read("k_norm.weight")?,
            base: read("k_base")?,
            b: read("b")?,
        });
    }
    Ok(Nets::new(NAME, (path, &file), layers))
}

fn check(gates: &Gates, c: &Config) -> Result<(), EngineError> {
    for gate in gates.layers_of(c)? {
        let d = gate.q_norm.values.len();
        let sinks = gate.base.shape.get(2).copied().unwrap_or(0);
        gate.q.0.expect(NAME, &[c.q_heads * d, c.hidden], "(query heads x gate size, hidden size)")?;
        gate.q.1.expect(NAME, &[c.q_heads * d], "(query heads x gate size)")?;
        gate.k.expect(NAME, &[c.kv_heads * d, c.hidden], "(kv heads x gate size, hidden size)")?;
        gate.k_norm.expect(NAME, &[d], "(gate size)")?;
        gate.base.expect(NAME, &[c.kv_heads, 1, sinks, d], "(kv heads, 1, sinks, gate size)")?;
        gate.b.expect(NAME, &[c.kv_heads, 1, c.group()], "(kv heads, 1, group)")?;
    }
    Ok(())
}

/// Scores of some tokens, `(tokens, kv_heads)`.
fn run(gates: &Gates, piece: &Piece<'_>) -> Result<Vec<f32>, EngineError> {
    let c = piece.model.config();
    let (q, k) = gates.ready(piece.layer, |gate| {
        let q = Trained::new(piece.model, &gate.q.0.values, &gate.q.1.values, c.hidden)?;
        Ok((q, Trained::new(piece.model, &gate.k.values, &[], c.hidden)?))
    })?;
    let gate = gates.read(piece.layer);
    let mut queries = q.apply(piece.model, piece.hidden)?;
    let mut keys = k.apply(piece.model, piece.hidden)?;
    rms_norm(&mut queries, &gate.q_norm.values);
    rms_norm(&mut keys, &gate.k_norm.values);
    let (d, group) = (gate.q_norm.values.len(), c.group());
    let per_head = gate.base.values.len() / c.kv_heads;
    let of_group = queries.chunks_exact(group * d).zip(keys.chunks_exact(d)).enumerate();
    Ok(of_group
        .map(|(at, (queries, key))| {
            let head = at % c.kv_heads;
            let (base, b) = (gate.base.part(head, per_head), gate.b.part(head, group));
            let sum: f32 = queries.chunks_exact(d).zip(b).map(|(query, &b)| gated(query, (key, b), base)).sum();
            sum / group as f32
        })
        .collect())
}

fn gated(query: &[f32], (key, b): (&[f32], f32), base: &[f32]) -> f32 {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let dot = |key: &[f32]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * scale;
    let logit = dot(key) + b;
    1.0 / (1.0 + base.chunks_exact(query.len()).map(|base| (dot(base) - logit).exp()).sum::<f32>())
}

fn rms_norm(rows: &mut [f32], weight: &[f32]) {
    for row in rows.chunks_exact_mut(weight.len()) {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + EPSILON).sqrt();
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
    }
}

/// Newest tokens that stay of `n`.
fn window(n: usize) -> usize {
    let window = if n < 32_000 { (n as f64 * 0.02) as usize } else { 4096 };
    window.max(1)
}

impl Ready {
    fn gates(&self) -> Result<&Gates, EngineError> {
        let how =
            "safetensors with the entries of a published gate named layers.i.*; its pickle has to be converted first";
        self.gates.as_ref().ok_or_else(|| no_file(NAME, how))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { hidden_states: true, data: true, ..Needs::default() }
    }

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        check(self.gates()?, config)
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.gates()?.fits(model)
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: SINKS, recents: 0 }
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        write_newest(&run(self.gates()?, piece)?, NAME, cache);
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        read_column(NAME, layer, scores)?;
        let first = layer.next.saturating_sub(window(layer.next)) as u32;
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            let old = head.positions().partition_point(|&p| p < first);
            row[old..].fill(2.0); // above whatever a gate can say
        }
        Ok(())
    }

    fn scope(&self) -> Scope {
        Scope::Cache
    }

    fn share_out(&self, layers: &[(LayerView<'_>, Scores)], counts: &mut [Vec<usize>]) -> Result<(), EngineError> {
        share_out(layers, counts, (self.layerwise, SINKS))
    }
}
