//! `meden kv save`: a document read once, compressed, and kept in a file.

use std::path::PathBuf;

use meden_engine::{CacheStats, Control, LogitRows, Session};
use meden_eval::task::{Judge, Probe, Question};
use serde::Serialize;
use serde_json::json;

use super::lab::codec;
use crate::args::{CacheArgs, ModelArgs};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::summary::{Memory, cache_lines};
use crate::{load, output, prompt, repeat, signals};

/// Read a document once, compress its cache, and save it. `meden kv load` then answers questions about it without
/// reading it again. The press does not see any question.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv save -f book.txt --kv-budget 25% --out book.kv
  meden kv load book.kv --prompt \"Who is the narrator?\"")]
pub struct Args {
    /// The document, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// The saved cache
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// No chat template: questions go on where the text ends
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// The one object of `meden kv save --json`.
#[derive(Serialize)]
struct Report {
    model: String,
    file: PathBuf,
    file_bytes: u64,
    tokens: usize,
    cache: CacheStats,
    memory: Memory,
}

/// A question that stands for all: only what comes before it matters.
pub fn probe(question: &str) -> Probe {
    Probe {
        question: question.to_owned(),
        prefix: String::new(),
        answer: "a".to_owned(),
        candidates: Vec::new(),
        judge: Judge::Contains,
    }
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let mut options = args.cache.session_options()?;
    let opened = load::open(&args.model, global.quiet)?;
    repeat::instruct(repeat::press_of(&mut options.policy), opened.tokenizer.as_ref(), global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let text = prompt::read_text(&args.file)?;
    if text.trim().is_empty() {
        return Err(usage("-f: the document is empty: there is nothing to save"));
    }
    let template = !args.raw && codec.has_template();
    let ids = codec.layout(text.trim_end(), &probe("?"), (Question::Unseen, template))?.compressed;
    opened.check_context("the document", ids.len())?;
    let loaded = opened.load(&options, ids.len())?;
    let mut session = Session::new(loaded.model.clone(), options)?;
    {
        let mut bar = Bar::new(global.quiet);
        let mut show = |done: usize, total: usize| bar.tokens("reading", done, total);
        let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
        session.forward(&ids, LogitRows::None, &mut control)?;
    }
    let name = args.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    session.save_with(&args.out, &json!({ "document": name, "template": template }))?;
    let file_bytes = std::fs::metadata(&args.out).map(|m| m.len()).unwrap_or(0);
    let (cache, memory) = (session.stats(), Memory::now(loaded.model.weight_bytes()));
    if !global.quiet {
        note.iter().for_each(|n| say(&format!("note: {n}")));
        if !global.json {
            cache_lines(&cache, &memory).iter().for_each(|line| say(line));
            say(&format!("saved {}, {}", args.out.display(), meden_report::human::bytes(file_bytes)));
        }
    }
    if global.json {
        let tokens = ids.len();
        output::object(&Report { model: opened.name(), file: args.out, file_bytes, tokens, cache, memory })?;
    }
    Ok(Exit::Ok)
}
