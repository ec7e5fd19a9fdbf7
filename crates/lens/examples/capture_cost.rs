//! What capture costs beside a prefill, and how much memory it takes.
//!
//! cargo run --release -p meden-lens --example capture_cost -- MODEL.gguf [TOKENS a prompt] [PROMPTS] [FOLDER]
//!
//! One site in all layers (`resid_post`), for prompts of equal length: into memory, and streamed to a file in FOLDER
//! (removed at the end). Times are of the processor, all threads together, so that a busy machine does not count twice;
//! runs alternate and the least of each kind counts. Then a corpus of 100,000 tokens is streamed, and what the process
//! holds at most is compared with the weights.

use std::path::Path;

use meden_engine::{Control, EngineError, LoadOptions, LogitRows, Model, Session, SessionOptions};
use meden_lens::LensError;
use meden_lens::capture::{Dtype, FileCapture, Selection, capture, capture_to_file};
use meden_report::memory;

/// Processor time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // after the state come ppid, pgrp, session, tty, tpgid, flags, 4 fault counts, utime, stime: in ticks of 10 ms
    (fields.get(10).unwrap_or(&0.0) + fields.get(11).unwrap_or(&0.0)) / 100.0
}

fn timed(run: impl FnOnce() -> Result<(), LensError>) -> Result<f64, LensError> {
    let start = cpu();
    run()?;
    Ok(cpu() - start)
}

/// Reads every prompt by itself, as capture does, and looks at nothing.
fn read(session: &Session, prompts: &[Vec<u32>]) -> Result<(), LensError> {
    for ids in prompts {
        session.fork()?.forward(ids, LogitRows::None, &mut Control::default())?;
    }
    Ok(())
}

fn to_file(
    session: &Session,
    prompts: &[Vec<u32>],
    selection: &Selection,
    path: &Path,
    dtype: Dtype,
) -> Result<(), LensError> {
    let options = FileCapture { path: path.to_owned(), dtype, generate: None };
    capture_to_file(session, prompts, selection, &options, &mut Control::default())?;
    let removed = std::fs::remove_file(path);
    removed.map_err(|e| LensError::File(meden_files::FileError::io(path, "remove", e)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("usage: capture_cost MODEL.gguf [TOKENS a prompt] [PROMPTS] [FOLDER]")?;
    let tokens: usize = args.next().map_or(Ok(512), |t| t.parse())?;
    let count: usize = args.next().map_or(Ok(12), |t| t.parse())?;
    let folder = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let path = Path::new(&folder).join(format!("meden-capture-cost-{}.safetensors", std::process::id()));
    let model = Model::load(&meden_files::ModelFiles::open(model.as_ref())?, &LoadOptions::default())?;
    let vocab = model.config().vocab as u32;
    let corpus = |count: usize| -> Vec<Vec<u32>> {
        let id = |i: u32| 100 + (i.wrapping_mul(7919).wrapping_add(i.wrapping_mul(i) % 613)) % (vocab - 200);
        (0..count as u32).map(|p| (0..tokens as u32).map(|i| id(p * 131 + i)).collect()).collect()
    };
    let prompts = corpus(count);
    let session = Session::new(model.clone(), SessionOptions::default()).map_err(EngineError::from)?;
    let selection = Selection::parse(model.config(), "resid_post", "all", "all")?;

    read(&session, &prompts[..1])?; // warm
    let mut least = [f64::INFINITY; 4];
    for _ in 0..5 {
        let runs = [
            timed(|| read(&session, &prompts))?,
            timed(|| capture(&session, &prompts, &selection, &mut Control::default()).map(drop))?,
            timed(|| to_file(&session, &prompts, &selection, &path, Dtype::F32))?,
            timed(|| to_file(&session, &prompts, &selection, &path, Dtype::F16))?,
        ];
        least.iter_mut().zip(runs).for_each(|(least, run)| *least = least.min(run));
    }
    let all = (tokens * count) as f64;
    println!("| what | ms of one processor, 1,000 tokens | beside the prefill |\n| --- | --- | --- |");
    for (name, time) in
        ["prefill", "capture in memory", "capture to a file, f32", "capture to a file, f16"].iter().zip(least)
    {
        println!("| {name} | {:.0} | {:+.1}% |", 1e6 * time / all, 100.0 * (time / least[0] - 1.0));
    }

    // a new peak, of a process that holds the model and reads
    let corpus = corpus(100_000usize.div_ceil(tokens));
    memory::reset_peak();
    to_file(&session, &corpus, &selection, &path, Dtype::F16)?;
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let (peak, weights) = (memory::peak().unwrap_or(0), model.weight_bytes() as u64);
    println!(
        "\n{} tokens in {} prompts: at most {:.1} MiB in memory, {:.1} MiB beyond the weights",
        corpus.len() * tokens,
        corpus.len(),
        mib(peak),
        mib(peak.saturating_sub(weights))
    );
    Ok(())
}
