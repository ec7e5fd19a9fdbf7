//! What the lenses read: one prompt, or many, and how the cache holds it.

use std::path::{Path, PathBuf};

use meden_engine::{Control, KvTypes, Session, SessionOptions};
use serde::Deserialize;

use crate::args::ModelArgs;
use crate::exit::{Exit, failure, usage};
use crate::load::{self, Loaded, Opened};
use crate::progress::Bar;
use crate::{prompt, signals};

/// Flags of one prompt.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// The prompt; the model continues it as it stands
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// A file with the prompt, - for standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// Token ids instead of a text, as in 1,17,42
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "file", "chat"])]
    pub ids: Vec<u32>,
    /// Put the prompt through the model's chat template, as `meden run` does
    #[arg(long)]
    pub chat: bool,
}

/// Flags of a model that is looked into.
#[derive(clap::Args, Clone, Debug)]
pub struct LookArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Element type of cached keys and values while looking, or one for each, as in q8/q4
    #[arg(long, default_value = "f32", value_name = "f32|f16|q8|q4|KEYS/VALUES", help_heading = "Cache")]
    pub kv: KvTypes,
    /// Most tokens read in one go
    #[arg(long, default_value_t = 512, value_name = "N", help_heading = "Cache")]
    pub prefill_chunk: usize,
}

impl LookArgs {
    /// How sessions are made.
    pub fn options(&self) -> SessionOptions {
        SessionOptions { kv_type: self.kv, prefill_chunk: self.prefill_chunk, ..SessionOptions::default() }
    }

    /// Opens the model's files.
    pub fn open(&self, quiet: bool) -> anyhow::Result<Opened> {
        load::open(&self.model, quiet)
    }

    /// Loads the weights for prompts of at most so many tokens; an empty session beside them.
    pub fn load(&self, opened: &Opened, tokens: usize) -> anyhow::Result<(Loaded, Session)> {
        let loaded = opened.load(&self.options(), tokens)?;
        let session = Session::new(loaded.model.clone(), self.options())?;
        Ok((loaded, session))
    }
}

impl PromptArgs {
    /// The prompt as tokens.
    pub fn read(&self, opened: &Opened) -> anyhow::Result<Vec<u32>> {
        if !self.ids.is_empty() {
            opened.check_context("--ids", self.ids.len())?;
            return Ok(self.ids.clone());
        }
        let text = prompt::gather(self.prompt.as_deref(), self.file.as_deref())?;
        encode(opened, &text, self.chat)
    }
}

/// A text as tokens, as it stands or through the chat template.
pub fn encode(opened: &Opened, text: &str, chat: bool) -> anyhow::Result<Vec<u32>> {
    if chat && opened.template.is_none() {
        return Err(usage("--chat: this model has no chat template; leave it out"));
    }
    if text.is_empty() {
        return Err(usage("the prompt is empty: there is nothing to read"));
    }
    if chat {
        return Ok(prompt::encode(opened, text, None, false)?.ids);
    }
    // trailing blanks matter to the next token, so the text is taken as it is
    let ids = opened.tokenizer()?.encode(text, true)?;
    opened.check_context("the prompt", ids.len())?;
    Ok(ids)
}

/// Flags of many prompts.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Prompt")]
pub struct PromptsArgs {
    #[command(flatten)]
    pub one: PromptArgs,
    /// A file of prompts: one a line, or JSON lines with "prompt" or "ids"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids"])]
    pub prompts: Option<PathBuf>,
    /// A long text, cut into windows that are read by themselves
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids", "prompts", "chat"])]
    pub text: Option<PathBuf>,
    /// Tokens of a window of --text
    #[arg(long, default_value_t = 512, value_name = "N", requires = "text")]
    pub window: usize,
}

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    ids: Option<Vec<u32>>,
}

impl PromptsArgs {
    /// The prompts as tokens; at least one.
    pub fn read(&self, opened: &Opened) -> anyhow::Result<Vec<Vec<u32>>> {
        if let Some(path) = &self.prompts {
            return self.lines(opened, path);
        }
        if let Some(path) = &self.text {
            if self.window == 0 || self.window > opened.config.context {
                return Err(usage(format!(
                    "--window: {} tokens; 1 to {} are read",
                    self.window, opened.config.context
                )));
            }
            let ids = opened.tokenizer()?.encode(&prompt::read_text(path)?, true)?;
            if ids.is_empty() {
                return Err(usage(format!("--text {}: there is nothing in it", path.display())));
            }
            return Ok(ids.chunks(self.window).map(<[u32]>::to_vec).collect());
        }
        Ok(vec![self.one.read(opened)?])
    }

    fn lines(&self, opened: &Opened, path: &Path) -> anyhow::Result<Vec<Vec<u32>>> {
        let text = prompt::read_text(path)?;
        let json = text.lines().find(|l| !l.trim().is_empty()).is_some_and(|l| l.trim_start().starts_with('{'));
        let mut prompts = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = |why: String| failure(Exit::BadFile, format!("{}, line {}: {why}", path.display(), number + 1));
            let ids = if json {
                let line: Line = serde_json::from_str(line).map_err(|e| at(format!("not a JSON object: {e}")))?;
                match (line.prompt, line.ids) {
                    (Some(prompt), None) => encode(opened, &prompt, self.one.chat)?,
                    (None, Some(ids)) if !ids.is_empty() => ids,
                    _ => return Err(at("write {\"prompt\": \"…\"} or {\"ids\": [1, 2]}".into())),
                }
            } else {
                encode(opened, line, self.one.chat)?
            };
            opened.check_context(&format!("{}, line {}", path.display(), number + 1), ids.len())?;
            prompts.push(ids);
        }
        if prompts.is_empty() {
            return Err(usage(format!("{}: there is no prompt in it", path.display())));
        }
        Ok(prompts)
    }
}

/// Runs something with a bar of tokens and Ctrl-C.
pub fn watched<T>(
    what: &str,
    quiet: bool,
    run: impl FnOnce(&mut Control<'_>) -> Result<T, meden_lens::LensError>,
) -> anyhow::Result<T> {
    let mut bar = Bar::new(quiet);
    let mut show = |done: usize, total: usize| bar.tokens(what, done, total);
    let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
    Ok(run(&mut control)?)
}

/// Writes a page where one was asked for, whole or not at all.
pub fn write_page(path: &Path, html: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = meden_files::AtomicFile::create(path)?;
    file.write_all(html.as_bytes()).map_err(|e| meden_files::FileError::io(path, "write", e))?;
    Ok(file.commit()?)
}
