//! One side of the comparison: runs in a process of its own and tells the other what happens, one JSON object a line.

use std::sync::Arc;

use meden_engine::{CacheStats, KvRotation, KvTypes, Policy, ReadPolicy, Session, SessionOptions};
use meden_kernels::mem::Slab;
use meden_report::memory;
use serde::{Deserialize, Serialize};

use super::document::Task;
use crate::args::ModelArgs;
use crate::exit::Exit;
use crate::generate::{Events, Finish, Request, generate};
use crate::summary::{Memory, Timings};
use crate::{load, output, prompt, signals};

/// Longest answer: a sentence is enough.
const MAX_TOKENS: usize = 32;

/// What one side has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideSpec {
    /// The model's files, and how they are loaded and run.
    pub model: ModelArgs,
    /// Element type of the cache.
    pub kv: KvTypes,
    /// How keys and values are turned before they are stored.
    pub kv_rotate: Option<KvRotation>,
    /// What written tokens read of it.
    pub read: Option<ReadPolicy>,
    /// Most tokens read in one go.
    pub prefill_chunk: usize,
    /// Compression; none for the dense side.
    pub policy: Option<Policy>,
    /// Where the sentence is planted, in percent.
    pub depth: u8,
}

/// What one side tells while it works.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Tokens read so far, and in all.
    Reading {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// The last line: everything measured.
    Done(Box<SideReport>),
}

/// What one side measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideReport {
    /// The answer.
    pub answer: String,
    /// Whether it contains what was planted.
    pub right: bool,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of document and question.
    pub prompt_tokens: usize,
    /// Tokens written.
    pub completion_tokens: usize,
    /// Tokens that the cache has seen: prompt and answer, but for the answer's last token.
    pub seen: usize,
    /// Kept slots, averaged over layers and heads.
    pub kept_tokens_mean: f64,
    /// Bytes of the cache at the end.
    pub kv_bytes: u64,
    /// What the cache would hold without a press.
    pub dense_bytes: u64,
    /// Most bytes of cache pages in use at once.
    pub peak_page_bytes: u64,
    /// Seconds and speeds.
    pub timings: Timings,
    /// Process memory at the end, and its peak.
    pub memory: Memory,
    /// Whether the peak leaves out the loading of the weights.
    pub peak_is_after_loading: bool,
    /// Tokens read against most bytes of cache pages at once while the last of them were read.
    pub curve: Vec<(usize, u64)>,
    /// Threads that did the work.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: String,
    /// What the cache has to say.
    pub notes: Vec<String>,
}

/// Tells the other process how far the reading is, and gathers the curve.
struct Told {
    slab: Arc<Slab>,
    curve: Vec<(usize, u64)>,
    failed: Option<std::io::Error>,
}

impl Told {
    fn most_bytes(&self) -> u64 {
        (self.slab.peak_pages() * self.slab.page_bytes()) as u64
    }
}

impl Events for Told {
    fn reading(&mut self, done: usize, total: usize) {
        self.curve.push((done, self.most_bytes()));
        self.slab.reset_peak();
        if let Err(error) = output::object(&Event::Reading { done, total }) {
            self.failed.get_or_insert(error);
        }
    }

    fn text(&mut self, _piece: &str) -> anyhow::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// Does the work and tells it on standard output.
pub fn run(spec: &SideSpec) -> anyhow::Result<Exit> {
    let options = SessionOptions {
        kv_type: spec.kv,
        kv_rotate: spec.kv_rotate,
        policy: spec.policy.clone(),
        prefill_chunk: spec.prefill_chunk,
        read: spec.read.clone(),
        ..SessionOptions::default()
    };
    let task = Task::new(spec.depth);
    let opened = load::open(&spec.model, true)?;
    let prompt = prompt::encode(&opened, &task.message(), None, false)?;
    let loaded = opened.load(&options, prompt.ids.len() + MAX_TOKENS)?;
    let mut session = Session::new(loaded.model.clone(), options)?;
    // The weights need more while they are read than afterwards; what the cache costs shows only without that.
    let peak_is_after_loading = memory::reset_peak();

    let slab = Arc::clone(session.cache().slab());
    let mut told = Told { slab, curve: Vec::new(), failed: None };
    let request = Request {
        ids: &prompt.ids,
        continues: prompt.continues,
        max_tokens: MAX_TOKENS,
        sampling: Default::default(),
        stop: vec!["\n".to_owned()],
        ignore_eos: false,
        cancel: signals::flag(),
    };
    let answer = generate(&mut session, opened.tokenizer.as_ref(), &request, &mut told)?;
    if answer.finish == Finish::Interrupted {
        return Ok(Exit::Interrupted);
    }
    let while_writing = told.most_bytes();
    let cache: CacheStats = session.stats();
    let text = answer.text.trim().to_owned();
    let report = SideReport {
        right: task.is_right(&text),
        answer: text,
        finish: answer.finish,
        prompt_tokens: prompt.ids.len(),
        completion_tokens: answer.ids.len(),
        seen: cache.seen,
        kept_tokens_mean: cache.kept_tokens_mean,
        kv_bytes: cache.kv_bytes,
        dense_bytes: cache.dense_bytes,
        peak_page_bytes: told.curve.iter().map(|c| c.1).max().unwrap_or(0).max(while_writing),
        timings: Timings::of(&answer, prompt.ids.len(), loaded.load_time),
        memory: Memory::now(loaded.model.weight_bytes()),
        peak_is_after_loading,
        curve: told.curve,
        threads: loaded.model.pool().threads(),
        isa: loaded.model.isa().to_string(),
        notes: cache.notes,
    };
    output::object(&Event::Done(Box::new(report)))?;
    Ok(Exit::Ok)
}
