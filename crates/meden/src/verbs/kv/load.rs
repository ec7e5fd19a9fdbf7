//! `meden kv load`: questions to a saved cache.

use std::path::PathBuf;

use meden_engine::{Session, SessionOptions};
use meden_eval::task::Question;
use serde::Serialize;

use super::lab::codec;
use super::save::probe;
use crate::args::{ModelArgs, SamplingArgs};
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::generate::{Request, generate};
use crate::progress::say;
use crate::shown::Shown;
use crate::summary::Answered;
use crate::{load, output};

/// Ask a saved cache. The document is not read again; the file is not changed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden kv load book.kv --prompt \"Who is the narrator?\"")]
pub struct Args {
    /// A file of `meden kv save`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The question
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// The one object of `meden kv load --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    document: &'a str,
    document_tokens: usize,
    #[serde(flatten)]
    answered: Answered<'a>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.sampling.logprobs > 0 {
        return Err(usage("--logprobs: `meden run --json` gives them; leave it out"));
    }
    if args.prompt.trim().is_empty() {
        return Err(usage("--prompt: the question is empty"));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let loaded = opened.load(&SessionOptions::default(), args.sampling.max_tokens)?;
    let (mut session, words) = Session::restore_with(loaded.model.clone(), &args.file)?;
    let Some(template) = words["template"].as_bool() else {
        return Err(failure(
            Exit::BadFile,
            format!(
                "{}: a saved session, but none of `meden kv save`; it does not say how to ask it",
                args.file.display()
            ),
        ));
    };
    let document_tokens = session.seen();
    let ids = codec.layout("", &probe(&args.prompt), (Question::Unseen, template))?.tail;
    opened.check_context("document and question", document_tokens + ids.len())?;
    let request = Request::new(&ids, !template, &args.sampling);
    let mut shown = Shown::new(global);
    let answer = generate(&mut session, opened.tokenizer.as_ref(), &request, &mut shown)?;
    drop(shown);
    let answered = Answered::new(&answer, ids.len(), &session, loaded.load_time);
    let exit = answered.exit();
    if global.json {
        let document = words["document"].as_str().unwrap_or_default();
        output::object(&Report { model: opened.name(), document, document_tokens, answered })?;
    } else {
        output::end_of_answer(&answer, opened.tokenizer.is_some())?;
        if !global.quiet {
            note.iter().for_each(|n| say(&format!("note: {n}")));
            if answered.evicted() {
                say("the press had not seen the question");
            }
            answered.lines(&answer).iter().for_each(|line| say(line));
        }
    }
    Ok(exit)
}
