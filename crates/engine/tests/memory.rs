//! Memory as the operating system sees it: it falls when a press evicts, and a chunked prefill stays bounded.
//!
//! One test in one process, because resident memory belongs to the process.
#![allow(clippy::unwrap_used)]

mod common;

use meden_engine::{Control, KvTypes, LogitRows, Policy, PressSpec, Run, Session, SessionOptions};
use meden_report::memory;

const MIB: u64 = 1 << 20;

fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 31) % vocab) as u32).collect()
}

#[test]
fn resident_memory_falls_with_the_cache_and_a_chunked_prefill_stays_bounded() {
    let model = common::smollm2();
    let (Some(_), Some(_)) = (memory::resident(), memory::peak()) else {
        println!("skipped: this system does not tell a process's memory");
        return;
    };
    let text = ids(3072, model.config().vocab);

    // bounded: f32 keys and values, so that the cache would be large; buffers are warm after the first chunk
    let (budget, chunk) = (256, 256);
    let press: PressSpec = "knorm".parse().unwrap();
    let schedule = format!("prefill_chunk:{chunk}").parse().unwrap();
    let policy = Policy { schedule, ..Policy::new(press.clone(), format!("{budget}").parse().unwrap()) };
    let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
    let forecast = options.forecast(model.config(), Run { prompt: text.len(), decode: 0 }).unwrap();
    let mut bounded = Session::new(model.clone(), options).unwrap();
    if memory::reset_peak() {
        let before = memory::resident().unwrap();
        bounded.forward(&text, LogitRows::None, &mut Control::default()).unwrap();
        let peak = memory::peak().unwrap();
        // what was forecast before anything was read
        let config = model.config();
        let layout = bounded.cache().layers()[0].heads()[0].layout();
        let pages = config.layers * config.kv_heads * layout.pages_for(budget + chunk);
        assert!(forecast.peak_page_bytes <= (pages * layout.page_bytes()) as u64);
        let allowed = forecast.peak_page_bytes + 10 * MIB;
        assert!(
            peak <= before + allowed,
            "peak {} MiB over {} MiB, allowed {} MiB",
            peak / MIB,
            before / MIB,
            allowed / MIB
        );
    } else {
        println!("the system does not let a process reset its peak: the bound is not checked");
    }
    drop(bounded);

    // evicted pages are given back to the system
    let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    let forecast = options.forecast(model.config(), Run { prompt: text.len(), decode: 0 }).unwrap();
    let mut session = Session::new(model.clone(), options).unwrap();
    let empty = memory::resident().unwrap();
    session.forward(&text, LogitRows::None, &mut Control::default()).unwrap();
    let full = session.stats();
    let before = memory::resident().unwrap();
    // the forecast is of the process, not of a counter: it grew by that, but for buffers
    let grown = before - empty;
    assert!(
        grown > forecast.kv_bytes - forecast.kv_bytes / 20
            && grown < forecast.kv_bytes + forecast.kv_bytes / 20 + 10 * MIB,
        "forecast {} MiB, resident memory grew by {} MiB",
        forecast.kv_bytes / MIB,
        grown / MIB
    );
    for layer in 0..model.config().layers {
        for head in 0..model.config().kv_heads {
            let keep: Vec<u32> = (0..text.len() as u32).filter(|p| p % 8 == 0).collect();
            session.keep_slots(layer, head, &keep).unwrap();
        }
    }
    let after = memory::resident().unwrap();
    let pressed = session.stats();
    let freed = full.page_bytes - pressed.page_bytes;
    assert!(freed > 100 * MIB, "the test is about a large cache: {} MiB", freed / MIB);
    assert!(
        before - after > freed - freed / 20,
        "{} MiB of pages were evicted, resident memory fell by {} MiB",
        freed / MIB,
        (before - after) / MIB
    );
    // and what is left is still read correctly
    session.decode(1, &mut Control::default()).unwrap();
    drop(session);
    let end = memory::resident().unwrap();
    assert!(end < after, "closing a session gives the rest back");
}
