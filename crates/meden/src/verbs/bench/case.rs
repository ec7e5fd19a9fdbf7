//! One case, measured in a process of its own, so that its peak memory is its own too.

use std::time::Instant;

use meden_engine::{BatchItem, CacheStats, Control, LogitRows, Session, SessionOptions, forward_batch};
use meden_report::memory;
use serde::{Deserialize, Serialize};

use super::grid::{Case, Test};
use crate::exit::{Exit, failure};
use crate::{load, output, signals};

/// What the measuring process tells.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Runs done, the untimed one included.
    Run {
        /// So far.
        done: usize,
    },
    /// Everything measured.
    Done(Box<Measured>),
}

/// What one case gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Threads that did the work.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Seconds of each run.
    pub seconds: Vec<f64>,
    /// Seconds to open the files and read the weights.
    pub load_seconds: f64,
    /// Weights as they are held.
    pub weight_bytes: u64,
    /// Weights that one decoded token reads.
    pub weight_bytes_a_token: u64,
    /// Bytes of the cache at the end: pages and what lies beside them.
    pub kv_bytes: u64,
    /// What the cache would hold without a press.
    pub kv_dense_bytes: u64,
    /// Bytes of it that a written token read, all sessions; absent where nothing was written with a read policy.
    pub kv_read_bytes: Option<u64>,
    /// Slots kept, averaged over layers and heads.
    pub kept_tokens_mean: f64,
    /// Most bytes of this process in memory at once, loading included.
    pub peak_rss_bytes: Option<u64>,
    /// What the cache has to say.
    pub notes: Vec<String>,
}

/// Does the work and tells it on standard output.
pub fn run(case: &Case) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let opened = load::open(&case.model, true)?;
    opened.check_context(&case.name(), case.tokens())?;
    let options = SessionOptions {
        kv_type: case.kv,
        kv_rotate: case.kv_rotate,
        read: case.read.clone(),
        policy: case.policy.clone(),
        prefill_chunk: case.prefill_chunk,
        ..SessionOptions::default()
    };
    let loaded = opened.load(&options, case.tokens() * case.batch)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let model = loaded.model;
    let vocab = model.config().vocab as u32;
    // Any tokens do: the work does not depend on them, and a press sees keys that differ.
    let ids: Vec<u32> = (0..case.tokens() as u32).map(|i| (i.wrapping_mul(7919) + 13) % vocab).collect();
    let (before, timed) = ids.split_at(case.depth);

    let mut base = Session::new(model.clone(), options)?;
    if !before.is_empty() {
        base.forward(before, LogitRows::None, &mut interruptible())?;
    }
    let mut base = Some(base);
    let mut seconds = Vec::with_capacity(case.repeat);
    let mut caches: Vec<CacheStats> = Vec::new();
    let mut kv_read_bytes = None;
    for done in 0..=case.repeat {
        // The last run has the cache for itself; the others leave it as it was.
        let held = base.take().ok_or_else(|| failure(Exit::Other, "bench: the session is gone"))?;
        let mut sessions = Vec::with_capacity(case.batch);
        for _ in 1..case.batch {
            sessions.push(held.fork()?);
        }
        if done < case.repeat {
            sessions.push(held.fork()?);
            base = Some(held);
        } else {
            sessions.push(held);
        }
        let start = Instant::now();
        match case.test {
            Test::Prompt => forward(&mut sessions, timed)?,
            Test::Gen => timed.iter().try_for_each(|id| forward(&mut sessions, std::slice::from_ref(id)))?,
        }
        if done > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        caches = sessions.iter().map(Session::stats).collect();
        let read = caches.iter().filter_map(|c| c.read.filter(|r| r.tokens > 0)).map(|r| r.bytes / r.tokens);
        kv_read_bytes = read.reduce(|a, b| a + b);
        output::object(&Event::Run { done: done + 1 })?;
    }
    let cache = caches.first().ok_or_else(|| failure(Exit::Other, "bench: nothing was measured"))?;
    output::object(&Event::Done(Box::new(Measured {
        threads: model.pool().threads(),
        isa: model.isa().to_string(),
        seconds,
        load_seconds,
        weight_bytes: model.weight_bytes() as u64,
        weight_bytes_a_token: model.weight_bytes_a_token() as u64,
        kv_bytes: caches.iter().map(|c| c.kv_bytes).sum(),
        kv_dense_bytes: caches.iter().map(|c| c.dense_bytes).sum(),
        kv_read_bytes,
        kept_tokens_mean: cache.kept_tokens_mean,
        peak_rss_bytes: memory::peak(),
        notes: cache.notes.clone(),
    })))?;
    Ok(Exit::Ok)
}

/// The same tokens to every session, in one pass where there are several; logits of the last one, as for an answer.
fn forward(sessions: &mut [Session], ids: &[u32]) -> anyhow::Result<()> {
    let item = |session| BatchItem { session, ids, rows: LogitRows::Last };
    let mut items: Vec<BatchItem> = sessions.iter_mut().map(item).collect();
    Ok(forward_batch(&mut items, &mut interruptible(), &mut |_, _, _| Ok(()))?)
}

fn interruptible() -> Control<'static> {
    Control { cancel: Some(signals::flag()), ..Control::default() }
}
