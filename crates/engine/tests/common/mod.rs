//! What the engine's tests share: where the reference values are, and how to read them.
#![allow(dead_code, clippy::unwrap_used)]

pub mod twin;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use meden_engine::{
    Control, KvTypes, LoadOptions, LogitRows, Model, Policy, PressSpec, Session, SessionOptions, WeightMode,
};
use meden_files::ModelFiles;

/// The folder of reference values, or a printed line that the test skips.
pub fn oracle(part: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle").join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no reference values ({part}) beside the repository");
    None
}

/// A text for long prompts, or a printed line that the test skips.
pub fn text(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/text").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(_) => {
            println!("skipped: no text {name} beside the repository");
            None
        }
    }
}

/// One tensor of a reference file, as f32 or as integers.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub f: Vec<f32>,
    pub i: Vec<i64>,
}

impl Tensor {
    pub fn ids(&self) -> Vec<u32> {
        self.i.iter().map(|&v| v as u32).collect()
    }
}

/// Read a reference file whole.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut out = BTreeMap::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let (mut f, mut i) = (Vec::new(), Vec::new());
        match view.dtype() {
            safetensors::Dtype::F32 => {
                f = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::F64 => {
                f = data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
            }
            safetensors::Dtype::I64 => {
                i = data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::I32 => {
                i = data.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            safetensors::Dtype::U8 | safetensors::Dtype::BOOL => i = data.iter().map(|&b| i64::from(b)).collect(),
            other => panic!("{name}: {other:?}"),
        }
        out.insert(name.to_string(), Tensor { shape: view.shape().to_vec(), f, i });
    }
    out
}

/// Load a model folder or file.
pub fn load(path: &Path, weights: WeightMode, threads: usize) -> Arc<Model> {
    let files = ModelFiles::open(path).unwrap();
    Model::load(&files, &LoadOptions { threads, weights, ..LoadOptions::default() }).unwrap()
}

/// A tiny random llama of the reference set.
pub fn tiny(name: &str) -> Option<Arc<Model>> {
    Some(load(&oracle(&format!("tiny/{name}"))?, WeightMode::Native, 2))
}

/// The same, loaded once a test binary.
pub fn tiny_once(name: &'static str) -> Option<Arc<Model>> {
    static MODELS: Mutex<BTreeMap<&'static str, Option<Arc<Model>>>> = Mutex::new(BTreeMap::new());
    MODELS.lock().unwrap().entry(name).or_insert_with(|| tiny(name)).clone()
}

/// Where the default model lies, fetched at first use.
pub fn smollm2_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        meden_files::source::resolve(
            "smollm2",
            &meden_files::source::ResolveOptions::from_env(),
            &mut meden_files::source::Silent,
        )
        .expect("the default model")
    })
}

/// The default model in f32, loaded once a test binary.
pub fn smollm2_f32() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load(smollm2_path(), WeightMode::F32, 2)).clone()
}

/// The default model quantised, loaded once a test binary.
pub fn smollm2() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load(smollm2_path(), WeightMode::Native, 2)).clone()
}

/// Largest absolute difference.
pub fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Index of the largest value, the lower one on ties.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

/// Log-softmax in f64.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = logits.iter().map(|&l| (l as f64 - max).exp()).sum();
    logits.iter().map(|&l| l as f64 - max - sum.ln()).collect()
}

/// Two best logits differ by this much.
pub fn margin(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted[0] - sorted[1]
}

/// The presses of this crate.
pub fn presses() -> Vec<PressSpec> {
    ["knorm", "knorm_high", "random", "streaming_llm"].map(|p| p.parse().unwrap()).to_vec()
}

pub fn policy(press: &PressSpec, budget: &str, schedule: &str) -> Policy {
    Policy {
        schedule: schedule.parse().unwrap(),
        skip_layers: Some(vec![0]),
        sinks: 2,
        recents: 4,
        ..Policy::new(press.clone(), budget.parse().unwrap())
    }
}

pub fn open(model: &Arc<Model>, policy: Option<Policy>) -> Session {
    let options = SessionOptions { kv_type: KvTypes::F32, policy, ..SessionOptions::default() };
    Session::new(model.clone(), options).unwrap()
}

/// Ids that exist in every tiny model, the same in each run.
pub fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * 37 + i * i * 11) % 300).collect()
}

pub fn run(session: &mut Session, ids: &[u32]) -> Vec<f32> {
    session.forward(ids, LogitRows::All, &mut Control::default()).unwrap()
}

pub fn kept(session: &Session) -> Vec<Vec<Vec<u32>>> {
    let layers = session.cache().layers();
    layers.iter().map(|l| l.heads().iter().map(|h| h.positions().to_vec()).collect()).collect()
}
