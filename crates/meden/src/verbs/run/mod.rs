//! `meden run`: answer one prompt.

mod conflict;
mod probed;

use std::path::PathBuf;

use meden_engine::{Hook, Session};
use serde::Serialize;

use crate::args::{CacheArgs, ModelArgs, SamplingArgs, SteerArgs};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::generate::{Request, generate_watched};
use crate::load::{self, Opened};
use crate::output;
use crate::progress::say;
use crate::prompt::{self, Prompt};
use crate::repeat;
use crate::shown::Shown;
use crate::summary::Answered;

/// Answer one prompt. The answer goes to standard output as it is written, figures to standard error at the end.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden run --prompt \"Why is the sky blue?\" --max-tokens 80
  meden run -f book.txt --prompt \"Who is the narrator?\" --kv-budget 25%
  git diff | meden run --system \"Describe this change in one line\" -f -
  meden run --prompt \"The capital of France is\" --raw --probe mine.probe.safetensors
  meden run --context note.txt --prompt \"What is the capital of France?\" --conflict")]
pub struct Args {
    /// The prompt; after the file's text when both are given
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file to read first, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// No chat template: the model continues the text as it stands
    #[arg(long)]
    raw: bool,
    /// Token ids instead of a text, as in 1,17,42
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "file", "system", "raw"])]
    ids: Vec<u32>,
    /// Ask a saved probe (see `meden probe`) before each token is chosen, and show what it says
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    #[command(flatten)]
    conflict: conflict::ConflictArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    steer: SteerArgs,
}

/// The one object of `meden run --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    #[serde(flatten)]
    answered: Answered<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'a probed::Probed>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.sampling.logprobs > 0 && !global.json {
        return Err(usage("--logprobs: they are printed with --json only; add it"));
    }
    if args.conflict.conflict {
        return conflict::run(&args, global);
    }
    let mut options = args.cache.session_options()?;
    let steer = args.steer.read(&options)?;
    let probe = args.probe.as_deref().map(probed::Probe::load).transpose()?;
    let opened = load::open(&args.model, global.quiet)?;
    repeat::instruct(repeat::press_of(&mut options.policy), opened.tokenizer.as_ref(), global.quiet)?;
    let prompt = read_prompt(&args, &opened)?;
    let loaded = opened.load(&options, (prompt.ids.len() + args.sampling.max_tokens).min(opened.config.context))?;
    let mut session = Session::new(loaded.model.clone(), options)?;
    let request = Request::new(&prompt.ids, prompt.continues, &args.sampling);
    let mut shown = Shown::new(global);
    let mut hook = probe.as_ref().map(|p| p.hook(&opened.name(), &loaded.model)).transpose()?;
    let mut steering = steer.as_ref().map(|s| s.hook(&session, prompt.ids.len())).transpose()?;
    // Steering comes first, so that a probe sees what it did.
    let mut hooks: Vec<&mut dyn Hook> = steering.iter_mut().map(|h| h as &mut dyn Hook).collect();
    hooks.extend(hook.iter_mut().map(|h| h as &mut dyn Hook));
    let answer = generate_watched(&mut session, opened.tokenizer.as_ref(), &request, (&mut shown, &mut hooks))?;
    drop((shown, hooks));
    let probed = probe.as_ref().zip(hook).map(|(p, hook)| {
        let tokens = (opened.tokenizer.as_ref(), &answer.ids[..]);
        p.values(hook.values(), prompt.ids.len(), tokens)
    });

    let answered = Answered::new(&answer, prompt.ids.len(), &session, loaded.load_time);
    let exit = answered.exit();
    if global.json {
        output::object(&Report { model: opened.name(), answered, probe: probed.as_ref() })?;
    } else {
        output::end_of_answer(&answer, opened.tokenizer.is_some())?;
        if let Some(probed) = &probed {
            output::text(&format!("\n{}", probed.table()))?;
        }
        if !global.quiet {
            answered.lines(&answer).iter().for_each(|line| say(line));
        }
    }
    Ok(exit)
}

fn read_prompt(args: &Args, opened: &Opened) -> anyhow::Result<Prompt> {
    if !args.ids.is_empty() {
        opened.check_context("the prompt", args.ids.len())?;
        return Ok(Prompt { ids: args.ids.clone(), continues: true });
    }
    let text = prompt::gather(args.prompt.as_deref(), args.file.as_deref())?;
    prompt::encode(opened, &text, args.system.as_deref(), args.raw)
}
