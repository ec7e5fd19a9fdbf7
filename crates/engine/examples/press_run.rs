//! One press on one text, as a program: seconds, memory and kept positions as JSON, for comparisons with other engines.
//!
//! cargo run --release -p meden-engine --example press_run -- MODEL.gguf JOB.json
//!
//! The job: {"ids": [..], "forced": [..], "press": "snapkv" or null, "ratio": 0.5, "weights": "native" or "f32",
//! "kv": "f16", "kept": true}. The text is read in one go, pressed once, then the forced tokens are decoded one by one
//! at their true positions. Rounding and protection are those of kvpress.

use std::time::Instant;

use meden_engine::{
    Budget, Control, KvTypes, LoadOptions, Model, Policy, PressSpec, Rounding, Schedule, Session, SessionOptions,
    WeightMode,
};

/// A field of /proc/self/status in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, job] = &args[..] else { return Err("usage: press_run MODEL.gguf JOB.json".into()) };
    let job: serde_json::Value = serde_json::from_slice(&std::fs::read(job)?)?;
    let list = |field: &str| -> Vec<u32> {
        job[field].as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as u32).collect()
    };
    let (ids, forced) = (list("ids"), list("forced"));
    let weights: WeightMode = job["weights"].as_str().unwrap_or("native").parse()?;
    let threads = job["threads"].as_u64().unwrap_or(0) as usize;
    let options = LoadOptions { weights, threads, ..LoadOptions::default() };
    let model = Model::load(&meden_files::ModelFiles::open(model.as_ref())?, &options)?;
    let loaded = status("VmRSS");
    let policy = match job["press"].as_str() {
        None => None,
        Some(press) => {
            let press: PressSpec = press.parse()?;
            let share = 1.0 - job["ratio"].as_f64().unwrap_or(0.5);
            Some(Policy {
                schedule: Schedule::prefill_end(),
                skip_layers: Some(vec![]),
                sinks: 0,
                recents: 0,
                rounding: Rounding::Kvpress,
                ..Policy::new(press, Budget::Ratio(share))
            })
        }
    };
    let kv_type: KvTypes = job["kv"].as_str().unwrap_or("f16").parse()?;
    let options = SessionOptions { kv_type, policy, ..SessionOptions::default() };
    let mut session = Session::new(model, options)?;
    let start = Instant::now();
    session.prefill(&ids, &mut Control::default())?;
    let prefill = start.elapsed().as_secs_f64();
    let stats = session.stats();
    let start = Instant::now();
    for &id in &forced {
        session.decode(id, &mut Control::default())?;
    }
    let decode = start.elapsed().as_secs_f64();
    let kept: Vec<Vec<&[u32]>> = match job["kept"].as_bool() {
        Some(true) => session
            .cache()
            .layers()
            .iter()
            .map(|layer| {
                let old = |p: &&[u32]| p.partition_point(|&p| (p as usize) < ids.len());
                layer.heads().iter().map(|head| head.positions()).map(|p| &p[..old(&p)]).collect()
            })
            .collect(),
        _ => Vec::new(),
    };
    let out = serde_json::json!({
        "prefill_s": prefill,
        "decode_tokens_per_s": forced.len() as f64 / decode,
        "cache_bytes": stats.kv_bytes,
        "loaded_bytes": loaded,
        "peak_bytes": status("VmHWM"),
        "notes": stats.notes,
        "kept": kept,
    });
    println!("{out}");
    Ok(())
}
