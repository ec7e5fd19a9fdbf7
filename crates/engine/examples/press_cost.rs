//! What presses cost beside a dense prefill: processor time of the prefill, of gathering, of pressing.
//!
//! cargo run --release -p meden-engine --example press_cost -- MODEL.gguf [TOKENS] [PRESS ...]
//!
//! Times are of the processor, all threads together, so that a busy machine does not count twice.

use meden_engine::press::registry::REGISTRY;
use meden_engine::{Budget, Control, LoadOptions, Model, Policy, PressSpec, Session, SessionOptions};

/// Processor time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // after the state come ppid, pgrp, session, tty, tpgid, flags, 4 fault counts, utime, stime: in ticks of 10 ms
    (fields.get(10).unwrap_or(&0.0) + fields.get(11).unwrap_or(&0.0)) / 100.0
}

fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let start = cpu();
    let value = f();
    (cpu() - start, value)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: press_cost MODEL.gguf [TOKENS] [PRESS ...]")?;
    let tokens: usize = args.next().map_or(Ok(8128), |t| t.parse())?;
    let mut names: Vec<String> = args.collect();
    if names.is_empty() {
        names = REGISTRY.iter().map(|p| p.name.to_string()).collect();
    }
    let model = Model::load(&meden_files::ModelFiles::open(path.as_ref())?, &LoadOptions::default())?;
    let vocab = model.config().vocab as u32;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| 100 + (i * 7919 + i * i % 613) % (vocab - 200)).collect();
    let read = |watch: Vec<PressSpec>| -> Result<Session, meden_engine::EngineError> {
        let options = SessionOptions { watch, ..SessionOptions::default() };
        let mut session = Session::new(model.clone(), options)?;
        session.prefill(&ids, &mut Control::default())?;
        Ok(session)
    };
    let (dense, _) = timed(|| read(Vec::new()));
    println!(
        "| press | gather, % of the prefill | press, % | together, ms of one processor |\n| --- | --- | --- | --- |"
    );
    println!("| (dense prefill of {tokens} tokens) | | | {:.0} |", dense * 1e3);
    for name in names {
        let press: PressSpec = name.parse()?;
        if press.build()?.own_budget() {
            continue;
        }
        let (reading, session) = timed(|| read(vec![press.clone()]));
        let mut session = session?;
        let policy = Policy { sinks: 0, recents: 0, ..Policy::new(press, Budget::Ratio(0.5)) };
        let (pressing, done) = timed(|| session.compress(&policy));
        if let Err(error) = done {
            println!("| {name} | | | refused: {error} |");
            continue;
        }
        let gather = reading - dense;
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} |",
            100.0 * gather / dense,
            100.0 * pressing / dense,
            (gather + pressing) * 1e3
        );
    }
    Ok(())
}
