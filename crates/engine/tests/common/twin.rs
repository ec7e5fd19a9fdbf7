//! Scalar twins read what the model computed through hooks, and do their own arithmetic on it.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{Config, Control, EngineError, LogitRows, Session};

use super::{Tensor, oracle, tensors};

/// What passed by some sites: rows by (site, layer).
#[derive(Default)]
pub struct Record {
    pub rows: BTreeMap<(String, usize), Vec<f32>>,
}

impl Hook for Record {
    fn name(&self) -> &str {
        "record"
    }

    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::QRot | Site::ResidPre | Site::Z)
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        self.rows.entry((format!("{:?}", visit.site), visit.layer)).or_default().extend_from_slice(visit.rows);
        Ok(())
    }
}

impl Record {
    pub fn of(session: &mut Session, ids: &[u32]) -> Record {
        let mut record = Record::default();
        let mut control = Control { hooks: vec![&mut record], ..Control::default() };
        session.forward(ids, LogitRows::None, &mut control).unwrap();
        record
    }

    /// Query of a token, after rotation.
    pub fn q(&self, config: &Config, layer: usize, token: usize, q_head: usize) -> Vec<f64> {
        self.head("QRot", config, (layer, token, q_head))
    }

    /// What a query head read for a token.
    pub fn z(&self, config: &Config, layer: usize, token: usize, q_head: usize) -> Vec<f64> {
        self.head("Z", config, (layer, token, q_head))
    }

    fn head(&self, site: &str, config: &Config, (layer, token, q_head): (usize, usize, usize)) -> Vec<f64> {
        let d = config.head_dim;
        wide(&self.rows[&(site.to_string(), layer)][(token * config.q_heads + q_head) * d..][..d])
    }

    /// The stream before a layer.
    pub fn stream(&self, config: &Config, layer: usize, token: usize) -> Vec<f64> {
        wide(&self.rows[&("ResidPre".to_string(), layer)][token * config.hidden..][..config.hidden])
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Keys or values of a head as rows.
pub fn rows(flat: Vec<f32>, dim: usize) -> Vec<Vec<f64>> {
    flat.chunks_exact(dim).map(wide).collect()
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// The weights of a tiny model, and its folder.
pub fn weights(name: &str) -> Option<(PathBuf, BTreeMap<String, Tensor>)> {
    let folder = oracle(&format!("tiny/{name}"))?;
    let file = tensors(&folder.join("model.safetensors"));
    Some((folder, file))
}

/// Scores agree within `tolerance` of the range of the wanted ones, slots below `first` and from `last` on left out.
pub fn assert_close(got: &[f32], want: &[f64], range: std::ops::Range<usize>, at: &str) {
    let want_in = &want[range.clone()];
    let span = want_in.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        - want_in.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(span > 0.0, "{at}: the twin's scores are all alike, which tests nothing");
    for slot in range {
        let diff = (f64::from(got[slot]) - want[slot]).abs();
        assert!(diff <= 2e-4 * span, "{at}, slot {slot}: {} against {} (span {span})", got[slot], want[slot]);
    }
}
