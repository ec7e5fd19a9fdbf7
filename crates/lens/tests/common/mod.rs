//! What the lens's tests share; the reference values are read by the engine's own helper.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../../engine/tests/common/mod.rs"]
mod engine;

use std::collections::BTreeMap;
use std::sync::Arc;

use meden_engine::{Control, LogitRows, Model, Session, Site};
use meden_lens::capture::{Captured, Selection, capture, exact_session};
use meden_lens::place::{Place, Positions};

#[allow(unused_imports)]
pub use engine::{Tensor, argmax, ids, load, log_softmax, margin, max_diff, oracle, smollm2, smollm2_f32, tensors};

/// A model with reference values of the lens.
pub struct Case {
    pub name: String,
    pub model: Arc<Model>,
    pub expected: BTreeMap<String, Tensor>,
    pub tiny: bool,
}

impl Case {
    pub fn ids(&self) -> Vec<u32> {
        self.expected["ids"].ids()
    }

    /// Largest difference that is allowed from a tensor of residual-like values.
    pub fn tolerance(&self, want: &[f32]) -> f32 {
        if self.tiny { 2e-4 } else { 2e-5 * want.iter().fold(0f32, |m, v| m.max(v.abs())) }
    }
}

/// Every model that the reference folder has values for; a printed line where it has none.
pub fn cases() -> Vec<Case> {
    let Some(root) = oracle("lens") else { return Vec::new() };
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        let (model, tiny) = match name.strip_prefix("tiny-") {
            Some(tiny) => (engine::tiny(tiny).expect("a tiny model for its reference values"), true),
            None => {
                assert_eq!(name, "smollm2", "reference values of a model that this test does not know how to find");
                (smollm2_f32(), false)
            }
        };
        cases.push(Case { name, model, expected: tensors(&path), tiny });
    }
    assert!(!cases.is_empty(), "the reference folder of the lens is empty");
    cases
}

/// Every tiny model of the reference set.
pub fn tiny_models() -> Vec<(String, Arc<Model>)> {
    let Some(root) = oracle("tiny") else { return Vec::new() };
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().to_string());
    let models: Vec<_> = entries.map(|name| (name.clone(), engine::tiny(&name).unwrap())).collect();
    assert!(!models.is_empty());
    models
}

/// A tiny llama, or a printed line that the test skips.
pub fn tiny(name: &str) -> Option<Arc<Model>> {
    engine::tiny(name)
}

pub fn grab(model: &Arc<Model>, ids: &[u32], sites: &str, positions: &str) -> Captured {
    let selection = Selection::parse(model.config(), sites, "all", positions).unwrap();
    let session = exact_session(model).unwrap();
    capture(&session, &[ids.to_vec()], &selection, &mut Control::default()).unwrap()
}

pub fn last_logits(model: &Arc<Model>, ids: &[u32]) -> Vec<f32> {
    exact_session(model).unwrap().forward(ids, LogitRows::Last, &mut Control::default()).unwrap()
}

pub fn everything(model: &Arc<Model>) -> Selection {
    Selection::new(Place::all(model.config()), Positions::All)
}

pub fn place(site: Site, layer: usize) -> Place {
    Place::new(site, layer)
}

pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// An empty session that reads in pieces of `chunk` tokens.
pub fn chunked(model: &Arc<Model>, chunk: usize) -> Session {
    let options = meden_engine::SessionOptions {
        kv_type: meden_engine::KvTypes::F32,
        prefill_chunk: chunk,
        ..meden_engine::SessionOptions::default()
    };
    Session::new(model.clone(), options).unwrap()
}

/// The files of the default model.
pub fn smollm2_files() -> meden_files::ModelFiles {
    meden_files::ModelFiles::open(engine::smollm2_path()).unwrap()
}
