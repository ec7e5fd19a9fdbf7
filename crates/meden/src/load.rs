//! From a model's name to something that can run, with every refusal made before the weights are read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use meden_engine::press::policy::PrefillSchedule;
use meden_engine::text::{ChatTemplate, TextError, Tokenizer};
use meden_engine::{Budget, Config, LoadWatch, Model, SessionOptions};
use meden_files::ModelFiles;
use meden_files::source::{self, ResolveOptions};
use meden_kernels::attention::PageLayout;
use meden_report::{human, memory};

use crate::args::ModelArgs;
use crate::exit::{Exit, failure};
use crate::progress::{Bar, say};
use crate::signals;

/// How long loading may take before its progress is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// A model whose files are open and whose weights are not read yet.
pub struct Opened {
    args: ModelArgs,
    quiet: bool,
    /// Where the files are.
    pub path: PathBuf,
    /// The open files.
    pub files: ModelFiles,
    /// The model's shape.
    pub config: Config,
    /// The tokenizer; `None` for weights that come without one.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template; `None` for base models.
    pub template: Option<ChatTemplate>,
}

/// A model that is ready.
pub struct Loaded {
    /// The model.
    pub model: Arc<Model>,
    /// How long reading the weights took.
    pub load_time: Duration,
}

/// Finds the files of a model, fetching them when they are not here.
pub fn find(name: &str, quiet: bool) -> anyhow::Result<PathBuf> {
    Ok(source::resolve(name, &ResolveOptions::from_env(), &mut Bar::new(quiet))?)
}

/// Opens a model's files and reads its shape, tokenizer and template.
pub fn open(args: &ModelArgs, quiet: bool) -> anyhow::Result<Opened> {
    let path = find(&args.model, quiet)?;
    let files = ModelFiles::open(&path)?;
    let config = Config::read(&files)?;
    let tokenizer = match Tokenizer::load(&files) {
        Ok(tokenizer) => Some(tokenizer),
        Err(TextError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let template = match &tokenizer {
        Some(tokenizer) => ChatTemplate::load(&files, tokenizer)?,
        None => None,
    };
    Ok(Opened { args: args.clone(), quiet, path, files, config, tokenizer, template })
}

impl Opened {
    /// The tokenizer, or the error that says what is missing.
    pub fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| TextError::NoTokenizer { path: self.path.display().to_string() }.into())
    }

    /// The name to show: the file or folder without its path.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(|| self.args.model.clone(), |n| n.to_string_lossy().into_owned())
    }

    /// Refuses a prompt that the model's context cannot hold.
    pub fn check_context(&self, what: &str, tokens: usize) -> anyhow::Result<()> {
        let limit = self.config.context;
        if tokens <= limit {
            return Ok(());
        }
        Err(failure(
            Exit::Context,
            format!(
                "{what}: {} tokens do not fit into the model's context of {} tokens; shorten it by {} or use a model with a longer context",
                human::count(tokens as u64),
                human::count(limit as u64),
                human::count((tokens - limit) as u64)
            ),
        ))
    }

    /// Reads the weights, if they and a cache for `tokens` tokens fit into what is free.
    pub fn load(&self, session: &SessionOptions, tokens: usize) -> anyhow::Result<Loaded> {
        self.check_memory(session, tokens)?;
        let start = Instant::now();
        let bar = Mutex::new(Bar::new(self.quiet));
        let progress = |done: u64, total: u64| {
            let taken = start.elapsed();
            if taken > PATIENCE
                && let Ok(mut bar) = bar.lock()
            {
                bar.loading("loading", (done, total), taken);
            }
        };
        let watch = LoadWatch { progress: Some(&progress), cancel: Some(signals::flag()) };
        let model = Model::load_watched(&self.files, &self.args.load_options(), watch)
            .with_context(|| format!("loading {}", self.args.model))?;
        drop(bar);
        if !self.quiet {
            model.substitutes().rows().iter().for_each(|row| say(&format!("note: {row}")));
            if !model.clamped().is_empty() {
                say(&format!("note: {}", model.clamped()));
            }
        }
        Ok(Loaded { model, load_time: start.elapsed() })
    }

    fn check_memory(&self, session: &SessionOptions, tokens: usize) -> anyhow::Result<()> {
        let Some(free) = memory::available() else {
            return Ok(());
        };
        let weights = Model::bytes_needed(&self.files, &self.args.load_options());
        let cache = cache_bytes(&self.config, session, tokens);
        let needed = weights.saturating_add(cache);
        if needed <= free {
            return Ok(());
        }
        Err(failure(
            Exit::Memory,
            format!(
                "{}: {} are needed ({} for the weights, {} for a cache of {} tokens), but {} are free; use a smaller model, --weights mapped or a --kv-budget",
                self.args.model,
                human::bytes(needed),
                human::bytes(weights),
                human::bytes(cache),
                human::count(tokens as u64),
                human::bytes(free)
            ),
        ))
    }
}

/// Most bytes that the cache of `tokens` tokens takes at once, as far as can be said before it is filled: the budget
/// and one chunk where there is a budget. Sliding windows are counted in full, so this errs on the safe side.
fn cache_bytes(config: &Config, session: &SessionOptions, tokens: usize) -> u64 {
    let layout = PageLayout::new(config.head_dim, config.head_dim, session.kv_type.key, session.kv_type.value);
    let token = (config.layers * config.kv_heads * layout.token_bytes()) as u64;
    // a press that acts once, after the prefill, has the whole text before it
    let policy = session.policy.as_ref().filter(|p| p.schedule.prefill != PrefillSchedule::End);
    let kept = match policy.map(|p| p.budget) {
        Some(Budget::Tokens(budget)) => tokens.min(budget + session.prefill_chunk),
        Some(Budget::Ratio(share)) => tokens.min((tokens as f64 * share) as usize + session.prefill_chunk),
        Some(Budget::Bytes(bytes)) => {
            return bytes.min(token * tokens as u64).saturating_add(token * session.prefill_chunk as u64);
        }
        Some(Budget::Press) | None => tokens,
    };
    token.saturating_mul(kept as u64)
}
