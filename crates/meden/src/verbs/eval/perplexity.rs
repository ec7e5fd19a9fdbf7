//! `meden eval perplexity`: one number with its interval.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use meden_engine::{Hook, Session, SessionOptions};
use meden_eval::perplexity::{self, Options, Perplexity, Regime, Watch};
use meden_lens::steer::Where;
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::args::{Asked, CacheArgs, ModelArgs};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::Bar;
use crate::summary::{Memory, bytes_or_dash};
use crate::{load, output, prompt, signals};

/// How surprised a model is by a text: exp of the mean negative log-probability of its tokens, with a 95% interval.
///
/// The text is read in windows, each with an empty cache. With --running it is read once with one cache, which a press
/// with the schedule decode_every:N keeps small on the way.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden eval perplexity -f book.txt --context 2048 --stride 1024
  meden eval perplexity -f book.txt --max-tokens 4096 --running \\
      --press knorm --kv-budget 512 --schedule decode_every:32 --sinks 0 --recents 0")]
pub struct Args {
    /// The text, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Judge only the first N tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Tokens in a window [default: the model's context, at most 2048]
    #[arg(long, value_name = "N", conflicts_with = "running")]
    context: Option<usize>,
    /// Tokens between the starts of two windows [default: half a window]
    #[arg(long, value_name = "N", conflicts_with = "running")]
    stride: Option<usize>,
    /// One cache for the whole text instead of windows
    #[arg(long)]
    running: bool,
    /// Confidence level of the interval
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    level: f64,
    /// With --json: the loss of every token as well
    #[arg(long)]
    nll: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// A steering file, with a strength behind a colon; every token is edited: what a steering costs on a text of yours
    #[arg(long, value_name = "FILE[:X]")]
    steer: Option<String>,
}

/// The one object of `meden eval perplexity --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    #[serde(flatten)]
    result: &'a Perplexity,
    context: Option<usize>,
    stride: Option<usize>,
    options: &'a SessionOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    steer: Option<&'a str>,
    seconds: f64,
    tokens_per_second: f64,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    nll: Option<&'a [f32]>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.nll && !global.json {
        return Err(usage("--nll: the losses are printed with --json only; add it"));
    }
    let mut session = args.cache.session_options()?;
    let steer = args.steer.as_deref().map(Asked::open).transpose()?;
    let opened = load::open(&args.model, global.quiet)?;
    crate::repeat::instruct(crate::repeat::press_of(&mut session.policy), opened.tokenizer.as_ref(), global.quiet)?;
    let text = prompt::read_text(&args.file)?;
    let mut ids = opened.tokenizer()?.encode(&text, true)?;
    if let Some(most) = args.max_tokens {
        ids.truncate(most);
    }
    let regime = regime(&args, opened.config.context);
    let longest = match regime {
        Regime::Windows { context, .. } => context.min(ids.len()),
        Regime::Running => ids.len(),
    };
    opened.check_context(if args.running { "the text" } else { "--context" }, longest)?;
    let loaded = opened.load(&session, longest)?;

    let options = Options { regime, session, level: args.level };
    let mut bar = Bar::new(global.quiet);
    let start = Instant::now();
    let mut show = |done: usize, total: usize| bar.tokens("judging", done, total);
    let whole = Session::new(loaded.model.clone(), options.session.clone())?;
    let mut hook = steer.as_ref().map(|s| s.hook(&whole, longest)).transpose()?.map(|hook| hook.at(Where::All));
    drop(whole);
    let hook = hook.as_mut().map(|hook| hook as &mut dyn Hook);
    let watch = Watch { progress: Some(&mut show), cancel: Some(signals::flag()), hook };
    let result = perplexity::measure(&loaded.model, &ids, &options, watch)?;
    let seconds = start.elapsed();
    bar.clear();

    let memory = Memory::now(loaded.model.weight_bytes());
    if global.json {
        let (context, stride) = match options.regime {
            Regime::Windows { context, stride } => (Some(context), Some(stride)),
            Regime::Running => (None, None),
        };
        output::object(&Report {
            model: opened.name(),
            result: &result,
            context,
            stride,
            options: &options.session,
            steer: args.steer.as_deref(),
            seconds: seconds.as_secs_f64(),
            tokens_per_second: result.tokens_read as f64 / seconds.as_secs_f64(),
            memory,
            nll: args.nll.then_some(&result.nll),
        })?;
    } else {
        output::text(&table(&result, seconds, &memory))?;
    }
    Ok(Exit::Ok)
}

fn regime(args: &Args, longest: usize) -> Regime {
    if args.running {
        return Regime::Running;
    }
    let context = args.context.unwrap_or(longest.min(2048));
    Regime::Windows { context, stride: args.stride.unwrap_or((context / 2).max(1)) }
}

fn table(result: &Perplexity, time: Duration, memory: &Memory) -> String {
    let mut table = Table::new(["", ""]).align(1, Align::Left);
    let interval = match result.interval {
        Some([low, high]) => {
            let level = human::percent(result.level).replace(".0%", "%");
            format!("{level} interval {low:.2} to {high:.2}")
        }
        None => "too few tokens for an interval".to_owned(),
    };
    table.row(["perplexity", &format!("{:.3}  ({interval})", result.perplexity)]);
    table.row(["mean loss", &format!("{:.4} nats a token", result.mean_nll)]);
    table.row(["first choice right", &human::percent(result.top1)]);
    table.row(["tokens judged", &human::count(result.tokens as u64)]);
    table.row([
        "tokens read",
        &format!(
            "{} in {} ({}/s)",
            human::count(result.tokens_read as u64),
            human::duration(time),
            human::rate(result.tokens_read as u64, time)
        ),
    ]);
    let cache = &result.cache;
    table.row([
        "cache at the end",
        &format!(
            "{} of {} dense, {} of {} tokens a head",
            human::bytes(cache.kv_bytes),
            human::bytes(cache.dense_bytes),
            human::count(cache.kept_tokens_mean.round() as u64),
            human::count(cache.seen as u64)
        ),
    ]);
    table.row([
        "process memory",
        &format!("{} now, {} at most", bytes_or_dash(memory.resident_bytes), bytes_or_dash(memory.peak_bytes)),
    ]);
    for note in &cache.notes {
        table.row(["note", note]);
    }
    table.to_string()
}
