//! One conversation: tokens read so far, their cache, and the policy that keeps it small.
//!
//! A session can be continued, forked (pages are shared until one side writes), rewound, saved and restored. A
//! failed or cancelled call leaves it as it was before the piece it failed in, but for what a press had evicted by
//! then; [`stats`](Session::stats) says so where it happened.

pub mod batch;
mod compress;
pub mod control;
pub mod forecast;
mod gathered;
mod interrupted;
mod look;
mod options;
mod replay;
mod snapshot;
mod stats;

use std::sync::Arc;

use crate::cache::KvCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::press::Press;
use crate::press::plan::Plan;
use crate::press::policy::Policy;
use crate::press::watch::{LayerState, Watch};
use crate::read::Reader;
use batch::{BatchItem, Buffers, forward_batch};
use compress::no_reader_of_narrow_keys;
use control::{Control, Emit};
use interrupted::Interrupted;

pub use compress::Compression;
pub use options::SessionOptions;

/// Which rows of logits a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// One for each token.
    All,
    /// That of the last token.
    Last,
    /// None.
    None,
}

/// One conversation with a model.
pub struct Session {
    model: Arc<Model>,
    options: SessionOptions,
    cache: KvCache,
    plan: Option<Plan>,
    reader: Option<Reader>,
    watch: Watch,
    buffers: Option<Box<Buffers>>,
    history: Vec<u32>,
    prefilled: bool,
    long_rope: Option<bool>,
    own_eviction: Option<usize>,
    interrupted: Interrupted,
    logits: Vec<f32>,
    /// It lives for one look only, so a pass may end where nobody looks further.
    looks: bool,
    /// A piece that a panic (a hook's) left half-way: its tokens are taken out when the session is used again.
    unfinished: Option<interrupted::Pressed>,
}

impl Session {
    /// An empty session.
    ///
    /// Errors: a policy that this model cannot carry out.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Session, EngineError> {
        Session::open(model, options, None)
    }

    /// An empty session with a press of the caller's own. The policy says how much stays and when; the press that it
    /// names is not used. Such a session cannot be saved, since nothing names its press.
    ///
    /// Errors: options without a policy, a policy that this model cannot carry out.
    pub fn with_press(
        model: Arc<Model>,
        options: SessionOptions,
        press: Arc<dyn Press>,
    ) -> Result<Session, EngineError> {
        if options.policy.is_none() {
            let allowed = "options with a policy: it says how much stays and when".to_string();
            return Err(EngineError::Setting { field: "press", value: press.name().to_string(), allowed });
        }
        Session::open(model, options, Some(press))
    }

    fn open(model: Arc<Model>, options: SessionOptions, press: Option<Arc<dyn Press>>) -> Result<Session, EngineError> {
        if options.prefill_chunk == 0 {
            return Err(EngineError::Setting {
                field: "prefill chunk",
                value: "0".into(),
                allowed: "at least 1 token".into(),
            });
        }
        options.kv_type.check(model.config().head_dim)?;
        if let Some(rotation) = options.kv_rotate {
            rotation.check(model.config().head_dim)?;
        }
        if let Some(read) = &options.read {
            read.check(model.config())?;
        }
        let cache = KvCache::new(model.config(), options.kv_type, options.kv_rotate);
        let compile = |policy: &Policy| match press {
            Some(press) => Plan::compile_with(policy, press, model.config(), &cache),
            None => Plan::compile(policy, model.config(), &cache),
        };
        let plan = options.policy.as_ref().map(compile).transpose()?;
        if let Some(plan) = &plan {
            no_reader_of_narrow_keys(plan, &options)?;
        }
        let reader = options.read.clone().map(Reader::new);
        let mut watched = plan.iter().map(|p| p.press().clone()).collect::<Vec<_>>();
        for press in &options.watch {
            watched.push(press.build()?);
        }
        for press in &watched {
            press.check(model.config())?;
            press.fits(&model)?;
        }
        let watch = Watch::new(watched, model.config());
        Ok(Session {
            model,
            options,
            cache,
            plan,
            reader,
            watch,
            buffers: None,
            history: Vec::new(),
            prefilled: false,
            long_rope: None,
            own_eviction: None,
            interrupted: Interrupted::default(),
            logits: Vec::new(),
            looks: false,
            unfinished: None,
        })
    }

    /// Let something else look at the text while it is read.
    pub(crate) fn watch_with(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// What has been gathered, by layer.
    pub(crate) fn gathered(&self) -> &[LayerState] {
        self.watch.layers()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The options it was made with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The cache, for looking.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Tokens seen so far, which is the next token's position, whatever was evicted.
    pub fn seen(&self) -> usize {
        self.history.len()
    }

    /// Ids of the tokens seen.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Read tokens, chunk by chunk; returns the logits of the last one, `(vocab)`.
    ///
    /// The first call is the prefill that `prefill_end` and `prefill_chunk` schedules speak of.
    /// Errors: no tokens, more than the context, a foreign id, cancellation.
    pub fn prefill(&mut self, ids: &[u32], control: &mut Control<'_>) -> Result<Vec<f32>, EngineError> {
        self.forward(ids, LogitRows::Last, control)
    }

    /// Read one token; the logits stay valid until the next call.
    pub fn decode(&mut self, id: u32, control: &mut Control<'_>) -> Result<&[f32], EngineError> {
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        let read = self.score(&[id], LogitRows::Last, control, &mut |_, row| {
            logits.extend_from_slice(row);
            Ok(())
        });
        self.logits = logits;
        read.map(|()| self.logits.as_slice())
    }

    /// Read tokens and return the rows of logits asked for, `(rows, vocab)`. `All` takes `tokens * vocab * 4` bytes;
    /// [`score`](Self::score) hands them over row by row instead.
    pub fn forward(
        &mut self,
        ids: &[u32],
        rows: LogitRows,
        control: &mut Control<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let mut logits = Vec::new();
        self.score(ids, rows, control, &mut |_, row| {
            logits.extend_from_slice(row);
            Ok(())
        })?;
        Ok(logits)
    }

    /// Read tokens and hand each wanted row of logits, with the number of its token in `ids`, to `emit`.
    pub fn score(
        &mut self,
        ids: &[u32],
        rows: LogitRows,
        control: &mut Control<'_>,
        emit: Emit<'_>,
    ) -> Result<(), EngineError> {
        let mut item = [BatchItem { session: self, ids, rows }];
        forward_batch(&mut item, control, &mut |_, token, values| emit(token, values))
    }

    fn check(&self, ids: &[u32]) -> Result<(), EngineError> {
        let config = self.model.config();
        if ids.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= config.vocab) {
            return Err(EngineError::TokenId { id, vocab: config.vocab });
        }
        let needed = self.next_position() + ids.len();
        if needed > config.context {
            return Err(EngineError::ContextExceeded { needed, limit: config.context });
        }
        Ok(())
    }

    /// Position of the next token: tokens seen, whatever was evicted, but for presses that renumber.
    pub fn next_position(&self) -> usize {
        self.history.len() - self.plan.as_ref().map_or(0, |plan| plan.counters.moved_down)
    }

    /// Remove every slot at or beyond a position, after which `seen` tokens are left.
    fn take_out(&mut self, position: usize, seen: usize) {
        for layer in 0..self.model.config().layers {
            self.cache.layer_mut(layer).truncate(position);
        }
        self.watch.truncate(position);
        if let Some(plan) = &mut self.plan {
            plan.take_back(seen);
        }
    }

    /// Gather nothing more for the presses named in [`SessionOptions::watch`], and let go of what was gathered for them:
    /// what a cache holds is then what its own policy needs. Made for forks that have been compressed.
    pub fn stop_watching(&mut self) {
        self.options.watch.clear();
        self.forget_what_no_press_will_read();
    }

    /// A press that acts once has had what it needed: stop gathering, and let go of it.
    fn forget_what_no_press_will_read(&mut self) {
        let done = self.plan.as_ref().is_none_or(|plan| !plan.acts_later());
        if done && self.options.watch.is_empty() && !self.watch.is_idle() {
            self.watch = Watch::new(Vec::new(), self.model.config());
            for layer in 0..self.model.config().layers {
                self.cache.layer_mut(layer).heads_mut().iter_mut().for_each(HeadCache::drop_columns);
            }
        }
    }

    /// Evict by a rule of your own: keep the named slots of one head (ascending), drop the others.
    ///
    /// Errors: slots that are not ascending or do not exist, a layer or head that does not exist.
    pub fn keep_slots(&mut self, layer: usize, head: usize, keep: &[u32]) -> Result<(), EngineError> {
        let config = self.model.config();
        let bad = |why: String| EngineError::Setting {
            field: "slots to keep",
            value: format!("layer {layer}, head {head}"),
            allowed: why,
        };
        if layer >= config.layers || head >= config.kv_heads {
            return Err(bad(format!("the model has {} layers of {} kv heads", config.layers, config.kv_heads)));
        }
        if self.cache.is_narrowed() {
            return Err(bad("a cache whose keys are whole: a press has narrowed the older ones".into()));
        }
        let cache = &mut self.cache.layer_mut(layer).heads_mut()[head];
        if keep.windows(2).any(|w| w[0] >= w[1]) || keep.last().is_some_and(|&s| s as usize >= cache.len()) {
            return Err(bad(format!("ascending slots below {}", cache.len())));
        }
        if keep.len() < cache.len() {
            cache.retain(keep);
            self.own_eviction = Some(self.history.len());
        }
        Ok(())
    }

    /// A second session with the same past. Pages are shared until one of the two writes to them.
    pub fn fork(&self) -> Result<Session, EngineError> {
        let plan = self.plan.as_ref().map(|plan| plan.fork(self.model.config(), &self.cache)).transpose()?;
        let mut reader = self.options.read.clone().map(Reader::new);
        if let (Some(reader), Some(old)) = (&mut reader, &self.reader) {
            reader.set_stats(old.stats());
        }
        Ok(Session {
            model: self.model.clone(),
            options: self.options.clone(),
            cache: self.cache.fork(),
            plan,
            reader,
            watch: self.watch.fork(),
            buffers: None,
            history: self.history.clone(),
            prefilled: self.prefilled,
            long_rope: self.long_rope,
            own_eviction: self.own_eviction,
            interrupted: self.interrupted,
            logits: Vec::new(),
            looks: false,
            unfinished: self.unfinished,
        })
    }

    /// Go back to when `seen` tokens had been seen.
    ///
    /// Errors: a place beyond the present, or one whose cache was thinned by a press or left a sliding window since.
    pub fn rewind(&mut self, seen: usize) -> Result<(), EngineError> {
        if seen > self.seen() {
            return Err(EngineError::RewindForward { to: seen, seen: self.seen() });
        }
        if let Some(evicted_at) = self.plan.as_ref().and_then(|p| p.counters.last_eviction).max(self.own_eviction)
            && seen < evicted_at
        {
            return Err(EngineError::RewindPastEviction { to: seen, evicted_at });
        }
        for layer in self.cache.layers() {
            let Some(window) = layer.window() else { continue };
            let first = layer.heads().iter().filter_map(|h| h.positions().first()).max().copied().unwrap_or(0);
            if seen > 0 && (first as usize) > (seen + 1).saturating_sub(window as usize) {
                return Err(EngineError::RewindPastEviction { to: seen, evicted_at: self.seen() });
            }
            if seen == 0 && first > 0 {
                break; // an empty session needs nothing of the past
            }
        }
        let position = seen - (self.seen() - self.next_position()).min(seen);
        self.take_out(position, seen);
        self.history.truncate(seen);
        if seen == 0 {
            self.prefilled = false;
            self.long_rope = None;
        }
        Ok(())
    }

    /// Write the session to a file, bound to its model and policy; see [`Session::restore`].
    pub fn save(&self, path: &std::path::Path) -> Result<(), EngineError> {
        self.save_with(path, &serde_json::Value::Null)
    }

    /// The same, with words of the caller's in the same file: they cannot get apart.
    pub fn save_with(&self, path: &std::path::Path, note: &serde_json::Value) -> Result<(), EngineError> {
        if self.unfinished.is_some() {
            return Err(EngineError::Poisoned);
        }
        snapshot::save(self, path, note)
    }

    /// Read a session back. The model must be the one it was saved with.
    pub fn restore(model: Arc<Model>, path: &std::path::Path) -> Result<Session, EngineError> {
        Ok(snapshot::restore(model, path)?.0)
    }

    /// The same, with what [`Session::save_with`] put beside it (null after a plain save).
    pub fn restore_with(
        model: Arc<Model>,
        path: &std::path::Path,
    ) -> Result<(Session, serde_json::Value), EngineError> {
        snapshot::restore(model, path)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("seen", &self.seen()).field("options", &self.options).finish_non_exhaustive()
    }
}
