//! Every press of the registry, on every shape of model, schedule and cache type: what all of them have to hold.
//!
//! The one other outcome is a refusal with the reason. A press that is not made here by name is made with its defaults.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use common::{ids, kept, run};
use meden_engine::press::registry::{Adaptivity, REGISTRY};
use meden_engine::{
    Budget, Control, EngineError, KvTypes, LoadOptions, Model, Policy, PressSpec, Session, SessionOptions, WeightMode,
};
use meden_files::ModelFiles;
use serde_json::json;

const SINKS: usize = 2;
const RECENTS: usize = 3;
const PROMPT: usize = 48;
const SCHEDULES: [&str; 2] = ["prefill_end", "prefill_chunk:8,decode_every:4"];
const TYPES: [KvTypes; 5] = [KvTypes::F32, KvTypes::F16, KvTypes::Q8, KvTypes::Q8_Q4, KvTypes::Q4C_Q8];

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("meden-conformance-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    })
}

/// The tiny llama with the first of its kv heads alone: one kv head for all query heads.
fn one_kv_head(root: &Path) -> PathBuf {
    let to = folder().join("one-kv-head");
    std::fs::create_dir_all(&to).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("config.json")).unwrap()).unwrap();
    let old = config["num_key_value_heads"].as_u64().unwrap() as usize;
    config["num_key_value_heads"] = 1.into();
    put(&to.join("config.json"), config.to_string());
    let bytes = std::fs::read(root.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let views = file.tensors().into_iter().map(|(name, view)| {
        let (mut shape, mut data) = (view.shape().to_vec(), view.data());
        if name.contains("k_proj") || name.contains("v_proj") {
            shape[0] /= old;
            data = &data[..data.len() / old];
        }
        (name, safetensors::tensor::TensorView::new(view.dtype(), shape, data).unwrap())
    });
    let views: Vec<_> = views.collect();
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
    to
}

/// Heads of their own, two that share, one for all, and layers that slide.
fn models(threads: usize) -> Vec<(&'static str, Arc<Model>)> {
    let Some(root) = common::oracle("tiny") else { return Vec::new() };
    let paths = [
        ("own heads", root.join("llama-mha-bias")),
        ("shared heads", root.join("llama")),
        ("one head", one_kv_head(&root.join("llama"))),
        ("sliding layers", root.join("gemma2")),
    ];
    let load = |path: &Path| {
        let options = LoadOptions { threads, weights: WeightMode::Native, ..LoadOptions::default() };
        Model::load(&ModelFiles::open(path).unwrap(), &options).unwrap()
    };
    paths.iter().map(|(name, path)| (*name, load(path))).collect()
}

/// A file that tests beside this one may be reading: there from one moment to the next, whole.
fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    let own = path.with_extension(format!("{:?}", std::thread::current().id()));
    std::fs::write(&own, bytes).unwrap();
    std::fs::rename(own, path).unwrap();
}

fn duo(model: &Model, ratio: f64) -> serde_json::Value {
    let c = model.config();
    let at = folder().join(format!("duo-{}-{}", c.layers, c.kv_heads));
    std::fs::create_dir_all(&at).unwrap();
    let row = |layer: usize| (0..c.kv_heads).map(|h| format!("0.{}", (layer * 3 + h * 5) % 10)).collect::<Vec<_>>();
    let table: Vec<String> = (0..c.layers).map(|layer| row(layer).join("\t")).collect();
    put(&at.join("full_attention_heads.tsv"), table.join("\n"));
    put(&at.join("config.json"), r#"{"sink_size": 2, "recent_size": 6}"#);
    json!({"kind": "duo_attention", "pattern": at, "head_compression_ratio": ratio})
}

fn curve(model: &Model) -> PathBuf {
    let c = model.config();
    let path = folder().join(format!("curve-{}-{}.npy", c.layers, c.kv_heads));
    let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': (99, {}, {}), }}", c.layers, c.kv_heads);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for percent in 1..=99 {
        for head in 0..c.layers * c.kv_heads {
            let drop = (f64::from(percent) / 100.0 + 0.1 * (head % 3) as f64 - 0.1).clamp(0.0, 1.0);
            bytes.extend(drop.to_le_bytes());
        }
    }
    put(&path, bytes);
    path
}

/// A press with parameters that suit a short text.
fn small(name: &str, model: &Model) -> PressSpec {
    let c = model.config();
    let snapkv = json!({"kind": "snapkv", "window_size": 4, "kernel_size": 3});
    let around = |extra: serde_json::Value| {
        let mut value = json!({"kind": name, "press": snapkv});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        value
    };
    let value = match name {
        "snapkv" => snapkv.clone(),
        "pyramidkv" => json!({"kind": name, "window_size": 4, "kernel_size": 3, "beta": 2}),
        "lagkv" => json!({"kind": name, "lag_size": 8}),
        "compactor" => json!({"kind": name, "sink_size_start": 2, "sink_size_end": 2}),
        "adakv" | "pooled" | "criticalkv" | "criticaladakv" => around(json!({})),
        "chunkkv" => around(json!({"chunk_length": 4})),
        "entropy_chunkkv" => around(json!({"chunk_length": 4, "low_entropy_chunk_length": 2})),
        "chunk" => json!({"kind": name, "press": {"kind": "keydiff"}, "chunk_length": 8}),
        "block" => json!({"kind": name, "press": {"kind": "keydiff"}, "block_size": 8}),
        "dms" => json!({"kind": name, "press": {"kind": "keydiff"}, "threshold": -0.3, "window_size": 6}),
        "simlayerkv" => json!({"kind": name, "lazy_threshold": 0.1, "n_recent": 8, "n_initial": 2}),
        "duo_attention" => duo(model, 0.5),
        "dropkv" | "morphkv" => json!({"kind": name, "window_size": 4}),
        "r_kv" => json!({"kind": name, "window_size": 4, "kernel_size": 3}),
        "finch" => json!({"kind": name, "window_size": 4}),
        "think" => json!({"kind": name, "window_size": 4}),
        "composed" => json!({"kind": name, "presses": [snapkv, {"kind": "keydiff"}]}),
        "per_layer" => {
            let ratio = |l: usize| if c.attention[l].window.is_some() { 0.0 } else { 0.2 + 0.15 * (l % 4) as f64 };
            let ratios: Vec<f64> = (0..c.layers).map(ratio).collect();
            json!({"kind": name, "press": {"kind": "keydiff"}, "compression_ratios": ratios})
        }
        "lukv" => json!({"kind": name, "press": {"kind": "keydiff"}, "curve": curve(model), "n_sink": 2}),
        _ => json!({"kind": name}),
    };
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The press with nothing to do, for those that have no budget to be wide.
fn idle(name: &str, model: &Model) -> PressSpec {
    let mut value = serde_json::to_value(small(name, model)).unwrap();
    match name {
        "dms" => value["threshold"] = json!(-1e30),
        "simlayerkv" => value["lazy_threshold"] = json!(1.0),
        "duo_attention" => value = duo(model, 0.0),
        "think" => value["key_channel_compression_ratio"] = json!(0.0),
        "per_layer" => value["compression_ratios"] = json!(vec![0.0; model.config().layers]),
        _ => {}
    }
    serde_json::from_value(value).unwrap()
}

/// One cell of the matrix.
struct Cell<'a> {
    name: &'a str,
    shape: &'a str,
    model: &'a Arc<Model>,
    kv_type: KvTypes,
    schedule: &'a str,
}

impl Cell<'_> {
    fn at(&self) -> String {
        format!("{} on {}, {:?}, {}", self.name, self.shape, self.kv_type, self.schedule)
    }

    fn policy(&self, press: PressSpec, budget: &str) -> Policy {
        let own = press.build().unwrap().own_budget();
        Policy {
            schedule: self.schedule.parse().unwrap(),
            skip_layers: Some(vec![]),
            sinks: SINKS,
            recents: RECENTS,
            ..Policy::new(press, if own { Budget::Press } else { budget.parse().unwrap() })
        }
    }

    fn budget(&self) -> &'static str {
        if self.schedule == "prefill_end" { "50%" } else { "16" }
    }

    fn open(&self, policy: Option<Policy>) -> Result<Session, EngineError> {
        Session::new(self.model.clone(), SessionOptions { kv_type: self.kv_type, policy, ..SessionOptions::default() })
    }

    /// A session with the press, or nothing where it is refused with the reason.
    fn session(&self) -> Option<Session> {
        match self.open(Some(self.policy(small(self.name, self.model), self.budget()))) {
            Ok(session) => Some(session),
            Err(EngineError::Press { press, why }) => {
                assert!(!press.is_empty() && why.len() > 20, "{}: a refusal says why: {why}", self.at());
                None
            }
            Err(other) => panic!("{}: {other}", self.at()),
        }
    }
}

fn cells<'a>(models: &'a [(&'static str, Arc<Model>)], mut check: impl FnMut(&Cell<'a>)) {
    for info in REGISTRY {
        for (shape, model) in models {
            for kv_type in TYPES {
                for schedule in SCHEDULES {
                    check(&Cell { name: info.name, shape, model, kv_type, schedule });
                }
            }
        }
    }
}

fn renumbers(session: &Session) -> bool {
    let policy = session.options().policy.as_ref().unwrap();
    policy.press.build().unwrap().renumbers()
}

/// What holds after every call, whatever the press: protection, order, positions, bytes.
fn holds(cell: &Cell<'_>, session: &Session) {
    let (at, seen) = (cell.at(), session.seen());
    let stats = session.stats();
    assert_eq!(stats.seen, seen);
    assert!(renumbers(session) || session.next_position() == seen, "{at}: positions go on from what was seen");
    let mut bytes = 0;
    for (layer, cache) in session.cache().layers().iter().enumerate() {
        let narrow = cache.narrow().map_or(&[][..], |n| n.heads());
        for (number, head) in cache.heads().iter().enumerate() {
            let mut positions = narrow.get(number).map_or(Vec::new(), |h| h.positions().to_vec());
            positions.extend(head.positions());
            let at = format!("{at}, layer {layer}, head {number}: {positions:?} after {seen}");
            assert!(positions.windows(2).all(|w| w[0] < w[1]), "{at}: positions increase");
            assert_eq!(positions.last().copied(), Some(session.next_position() as u32 - 1), "{at}: the newest");
            assert_eq!(stats.layers[layer].kept[number], positions.len(), "{at}");
            if cache.window().is_none() && !renumbers(session) {
                let sinks: Vec<u32> = (0..SINKS.min(seen) as u32).collect();
                assert!(positions.starts_with(&sinks), "{at}: sinks survive");
                let recents: Vec<u32> = (seen.saturating_sub(RECENTS) as u32..seen as u32).collect();
                assert!(positions.ends_with(&recents), "{at}: recents survive");
            }
            bytes += head.pages().len() * head.layout().page_bytes();
        }
        bytes += narrow.iter().map(|h| h.pages().len() * h.layout().page_bytes()).sum::<usize>();
    }
    assert_eq!(stats.page_bytes, bytes as u64, "{at}: bytes are those of the pages");
    assert_eq!(stats.kv_bytes, stats.page_bytes + stats.metadata_bytes, "{at}");
    if !session.cache().is_narrowed() {
        let slab = session.cache().slab();
        assert!(slab.live_pages() * slab.page_bytes() >= bytes, "{at}: the allocator holds what is reported");
    }
}

/// Numbers kept by presses with a budget.
fn meets(cell: &Cell<'_>, session: &Session) {
    let (at, seen) = (cell.at(), session.seen());
    let info = REGISTRY.iter().find(|info| info.name == cell.name).unwrap();
    if session.options().policy.as_ref().unwrap().budget == Budget::Press {
        return;
    }
    let layers: Vec<Vec<usize>> = session
        .cache()
        .layers()
        .iter()
        .filter(|layer| layer.window().is_none())
        .map(|layer| layer.heads().iter().map(|h| h.len()).collect())
        .collect();
    let (count, heads) = (layers.len(), layers[0].len());
    let total: usize = layers.iter().flatten().sum();
    if cell.schedule == "prefill_end" && seen == PROMPT {
        let target = PROMPT / 2;
        match info.adaptivity {
            _ if ["chunk", "chunkkv"].contains(&cell.name) => {
                assert!(layers.iter().flatten().all(|&n| n <= target + 4 && n >= target / 2), "{at}: {layers:?}");
            }
            // heads that share a pool may all hold the same; in any case a layer's sum is exact
            _ if cell.name == "composed" => assert_eq!(total, target * count * heads, "{at}: {layers:?}"),
            Adaptivity::Uniform => assert!(layers.iter().flatten().all(|&n| n == target), "{at}: {layers:?}"),
            Adaptivity::Heads => {
                assert!(layers.iter().all(|layer| layer.iter().sum::<usize>() == target * heads), "{at}: {layers:?}");
            }
            Adaptivity::Layers | Adaptivity::LayersAndHeads => {
                assert!(total.abs_diff(target * count * heads) <= count * heads, "{at}: {layers:?}");
                if cell.name == "pooled" {
                    assert_eq!(total, target * count * heads, "{at}: {layers:?}");
                }
            }
            Adaptivity::Channels => {}
        }
    }
    if cell.schedule != "prefill_end" {
        // below budget + interval on average; layers that differ are rounded one by one
        let mean = total as f64 / (count * heads) as f64;
        let slack = if info.adaptivity == Adaptivity::Uniform { 0.0 } else { 1.0 };
        assert!(mean < 16.0 + 4.0 + slack, "{at}: {mean} after {seen}: {layers:?}");
    }
    assert!(layers.iter().flatten().all(|&n| n >= 1), "{at}: {layers:?}");
}

/// Parts of a text: the prompt, then tokens one by one and a question batch.
fn text() -> Vec<Vec<u32>> {
    let all = ids(PROMPT + 1 + 13 + 1 + 1);
    let mut parts = vec![all[..PROMPT].to_vec()];
    let mut from = PROMPT;
    for size in [1, 13, 1, 1] {
        parts.push(all[from..from + size].to_vec());
        from += size;
    }
    parts
}

#[test]
fn every_press_keeps_order_protection_budget_and_bytes() {
    let models = models(2);
    let mut acted = std::collections::BTreeSet::new();
    cells(&models, |cell| {
        let Some(mut session) = cell.session() else { return };
        for part in text() {
            let logits = run(&mut session, &part);
            assert!(logits.iter().all(|l| l.is_finite()), "{}", cell.at());
            holds(cell, &session);
            meets(cell, &session);
        }
        if session.stats().presses_run > 0 {
            acted.insert(cell.name);
        } else {
            let notes = session.stats().notes;
            assert!(notes.iter().any(|n| n.contains("nothing")), "{}: silent: {notes:?}", cell.at());
        }
    });
    if !models.is_empty() {
        // refused here, where they have no files; press_files.rs has them on files made in their formats
        let files = ["qfilter", "expected_attention_stats", "kvzap", "fast_kvzip"];
        let idle = REGISTRY.iter().map(|i| i.name).filter(|n| !acted.contains(n) && !files.contains(n));
        let idle: Vec<_> = idle.collect();
        assert!(idle.is_empty(), "never acted in the whole matrix: {idle:?}");
    }
}

#[test]
fn a_press_with_nothing_to_do_leaves_every_bit() {
    cells(&models(2), |cell| {
        let Ok(mut with) = cell.open(Some(cell.policy(idle(cell.name, cell.model), "1000"))) else { return };
        let mut without = cell.open(None).unwrap();
        // the pieces a schedule reads, so that sums have the same order
        let chunk = if cell.schedule == "prefill_end" { 40 } else { 8 };
        // keys by channel are rounded with what is read in one go, so there tokens come alone
        let sizes = if cell.kv_type.key.is_by_channel() { [40, 1, 1, 1] } else { [40, 1, 4, 1] };
        let mut from = 0;
        for size in sizes {
            let part = &ids(60)[from..from + size];
            let a = run(&mut with, part);
            let b: Vec<f32> = part.chunks(chunk).flat_map(|piece| run(&mut without, piece)).collect();
            assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()), "{} at {from}", cell.at());
            from += size;
        }
        assert_eq!(with.stats().evicted, 0, "{}", cell.at());
    });
}

#[test]
fn a_chunked_prefill_never_holds_more_than_budget_and_chunk() {
    cells(&models(2), |cell| {
        if cell.schedule == "prefill_end" || cell.shape == "sliding layers" {
            return;
        }
        let Some(mut session) = cell.session() else { return };
        if session.options().policy.as_ref().unwrap().budget == Budget::Press {
            return;
        }
        session.prefill(&ids(200), &mut Control::default()).unwrap();
        let layout = session.cache().layers()[0].heads()[0].layout();
        let c = cell.model.config();
        // each head may have a page that is not full, a layer that may hold more has others that hold less
        let pages = c.layers * c.kv_heads * (layout.pages_for(16 + 8) + 1);
        let peak = session.stats().peak_page_bytes;
        assert!(peak <= (pages * layout.page_bytes()) as u64, "{}: {peak} bytes", cell.at());
    });
}

#[test]
fn short_texts_are_read_without_harm() {
    cells(&models(2), |cell| {
        for n in [1, 2, 3, 4, 5, 6, 9] {
            let Some(mut session) = cell.session() else { return };
            session.prefill(&ids(n), &mut Control::default()).unwrap_or_else(|e| panic!("{} at {n}: {e}", cell.at()));
            holds(cell, &session);
            session.decode(5, &mut Control::default()).unwrap_or_else(|e| panic!("{} after {n}: {e}", cell.at()));
            holds(cell, &session);
        }
    });
}

#[test]
fn forks_go_their_own_way_and_saved_sessions_go_on() {
    cells(&models(2), |cell| {
        let Some(mut alone) = cell.session() else { return };
        let mut parent = cell.session().unwrap();
        let parts = text();
        for part in &parts[..2] {
            run(&mut alone, part);
            run(&mut parent, part);
        }
        let mut fork = parent.fork().unwrap();
        // files cost more than sessions: every other cell goes through one
        let mut restored = if (cell.kv_type == KvTypes::F16) == (cell.schedule == "prefill_end") {
            let path = folder().join(format!("{}.kv", cell.name));
            parent.save(&path).unwrap();
            let restored = Session::restore(cell.model.clone(), &path).unwrap();
            std::fs::remove_file(path).unwrap();
            restored
        } else {
            parent.fork().unwrap()
        };
        let before = kept(&parent);
        run(&mut fork, &[7, 8, 9, 10, 11, 12, 13, 14, 15]);
        holds(cell, &fork);
        assert_eq!(kept(&parent), before, "{}: the parent of a fork", cell.at());
        for part in &parts[2..] {
            let (a, b, c) = (run(&mut alone, part), run(&mut parent, part), run(&mut restored, part));
            assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()), "{}: beside a fork", cell.at());
            assert!(a.iter().zip(&c).all(|(x, y)| x.to_bits() == y.to_bits()), "{}: saved and restored", cell.at());
            assert_eq!(kept(&alone), kept(&restored), "{}", cell.at());
        }
        assert_eq!(alone.stats().kv_bytes, restored.stats().kv_bytes, "{}", cell.at());
        if alone.stats().presses_run > 0 {
            let error = alone.rewind(1).unwrap_err();
            assert!(matches!(error, EngineError::RewindPastEviction { to: 1, .. }), "{}: {error}", cell.at());
        }
    });
}

#[test]
fn threads_change_nothing() {
    let (one, two) = (models(1), models(2));
    for ((shape, one), (_, two)) in one.iter().zip(&two) {
        for info in REGISTRY {
            for schedule in SCHEDULES {
                let cell = |model| Cell { name: info.name, shape, model, kv_type: KvTypes::F16, schedule };
                let (Some(mut a), Some(mut b)) = (cell(one).session(), cell(two).session()) else { continue };
                for part in text() {
                    let (x, y) = (run(&mut a, &part), run(&mut b, &part));
                    assert_eq!(kept(&a), kept(&b), "{}", cell(one).at());
                    assert!(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()), "{}", cell(one).at());
                }
            }
        }
    }
}
