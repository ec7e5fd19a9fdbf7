//! Prefill and decode speed of one model, for comparing with other engines in the same run.
//!
//! `cargo run --release -p meden-engine --example speed -- MODEL [THREADS] [REPEATS] [PREFILL] [DECODE] [DEPTH]`
//!
//! Prints tokens per second of each repeat: a prefill of PREFILL tokens from an empty cache, and DECODE tokens one by
//! one behind DEPTH tokens.

use std::time::Instant;

use meden_engine::{Control, LoadOptions, LogitRows, Model, Session, SessionOptions};
use meden_files::ModelFiles;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("usage: speed MODEL [THREADS] [REPEATS] [PREFILL] [DECODE] [DEPTH]")?;
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |s| s.parse());
    let (threads, repeats) = (number(1, 0)?, number(2, 3)?);
    let (prefill, decode, depth) = (number(3, 512)?, number(4, 128)?, number(5, 0)?);
    let files = ModelFiles::open(path.as_ref())?;
    let model = Model::load(&files, &LoadOptions { threads, ..LoadOptions::default() })?;
    let vocab = model.config().vocab as u32;
    let ids: Vec<u32> = (0..prefill.max(depth).max(1) as u32).map(|i| (i * 7919 + 13) % vocab).collect();
    for _ in 0..repeats {
        let mut session = Session::new(model.clone(), SessionOptions::default())?;
        let start = Instant::now();
        session.prefill(&ids[..prefill], &mut Control::default())?;
        let prefill_rate = prefill as f64 / start.elapsed().as_secs_f64();
        let mut session = Session::new(model.clone(), SessionOptions::default())?;
        session.forward(&ids[..depth.max(1)], LogitRows::None, &mut Control::default())?;
        let start = Instant::now();
        for i in 0..decode {
            session.decode(ids[i % ids.len()], &mut Control::default())?;
        }
        let decode_rate = decode as f64 / start.elapsed().as_secs_f64();
        println!("prefill {prefill_rate:.1} decode {decode_rate:.1} tokens/s, {} threads", model.pool().threads());
    }
    Ok(())
}
