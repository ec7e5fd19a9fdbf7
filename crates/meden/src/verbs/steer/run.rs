//! `meden steer run`: one answer under a steering.

use std::path::PathBuf;

use meden_engine::{Control, LogitRows, Session, SessionOptions};
use meden_lens::steer::{SteerHook, Steering, Toward};
use serde::Serialize;

use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::say;
use crate::{load, output, prompt, signals};

/// Answer a prompt greedily, as it stands, with and without the steering.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden steer run --steer spare.safetensors --to memory --prompt \"context: The capital of France is Rome.
question: What is the capital of France?
answer:\"")]
pub struct Args {
    /// The steering file
    #[arg(long, value_name = "FILE")]
    steer: PathBuf,
    /// Where the answer is to come from
    #[arg(long, value_name = "context|memory")]
    to: Toward,
    /// How strongly; 0 changes no bit
    #[arg(long, value_name = "X")]
    strength: Option<f32>,
    /// The prompt; the model goes on where it ends
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the prompt, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most tokens
    #[arg(long, default_value_t = 12, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden steer run --json`.
#[derive(Serialize)]
struct Report {
    to: Toward,
    strength: f32,
    plain: String,
    steered: String,
    /// Length of the change relative to the row's, summed over layers.
    relative: f64,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let steering = Steering::open(&args.steer)?;
    let strength = args.strength.unwrap_or(steering.strength);
    if !strength.is_finite() {
        return Err(usage("--strength: a finite number"));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let tokenizer = opened.tokenizer()?;
    let text = prompt::gather(args.prompt.as_deref(), args.file.as_deref())?;
    let ids = tokenizer.encode(text.trim_end(), true)?;
    opened.check_context("the prompt", ids.len() + args.max_tokens)?;
    let loaded = opened.load(&SessionOptions::default(), ids.len() + args.max_tokens)?;
    steering.check(&loaded.model, &args.steer)?;
    let mut answers = Vec::new();
    let mut relative = 0.0;
    for steered in [false, true] {
        let mut session = Session::new(loaded.model.clone(), SessionOptions::default())?;
        let mut hook = SteerHook::new(&steering, (args.to, strength), &session, ids.len());
        let (mut next, mut written) = (ids.clone(), Vec::new());
        while written.len() < args.max_tokens {
            let mut control = Control { cancel: Some(signals::flag()), ..Control::default() };
            if steered {
                control.hooks.push(&mut hook);
            }
            let logits = session.forward(&next, LogitRows::Last, &mut control)?;
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
            let id = best.unwrap_or(0) as u32;
            if tokenizer.eos_ids().contains(&id) || tokenizer.decode(&[id], false).contains('\n') {
                break;
            }
            written.push(id);
            next = vec![id];
        }
        relative = hook.applied().relative;
        answers.push(tokenizer.decode(&written, false).trim().to_owned());
    }
    let steered = answers.pop().unwrap_or_default();
    let plain = answers.pop().unwrap_or_default();
    if global.json {
        output::object(&Report { to: args.to, strength, plain, steered, relative })?;
        return Ok(Exit::Ok);
    }
    output::text(&format!("{steered}\n"))?;
    if !global.quiet {
        say(&format!("without steering: {plain}"));
        say(&format!(
            "to {}, strength {strength}: the edit is {:.1}% of the row's length",
            args.to.name(),
            100.0 * relative
        ));
    }
    Ok(Exit::Ok)
}
