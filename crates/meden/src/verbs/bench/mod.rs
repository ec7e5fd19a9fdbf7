//! `meden bench`: how fast, and in how much memory, a model reads and writes; and what the machine could do at most.
//!
//! Every case runs in a process of its own, after one untimed run, so that its peak memory is its own.

mod case;
mod grid;
mod view;

use meden_engine::{Isa, KvRotation, KvTypes, ReadPolicy, Schedule, WeightMode};
use meden_files::quantize::Recipe;
use meden_kernels::limits::{self, Limits};
use meden_kernels::pool::Pool;

use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::{child, load, output};
use case::Event;
use grid::{Case, Maybe, PressChoice, Test};
use view::Row;

/// Measure prefill and decode speed and memory: the median of several runs, each case in a process of its own.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden bench
  meden bench -m model.gguf --prompt 512,2048 --gen 128 --depth 0,8192 --press none,knorm:25% --kv f16,q8
  meden bench --gen 64 --prompt 0 --depth 8192 --kv q4 --kv-rotate none,hadamard --read none,quest:1024
  meden bench --limits")]
pub struct Args {
    /// Models to measure, as in `meden run`; give the flag again for more
    #[arg(long, short, default_value = meden_files::source::DEFAULT, value_name = "NAME|PATH")]
    model: Vec<String>,
    /// Tokens read together, a case each; 0 for no such case
    #[arg(long, default_value = "512", value_delimiter = ',', value_name = "N,..")]
    prompt: Vec<usize>,
    /// Tokens written one by one, a case each; 0 for no such case
    #[arg(long = "gen", default_value = "128", value_delimiter = ',', value_name = "N,..")]
    decode: Vec<usize>,
    /// Tokens in the cache before the timed ones
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N,..")]
    depth: Vec<usize>,
    /// Presses with their budgets, as in none,knorm:25%,streaming_llm:2048
    #[arg(long, default_value = "none", value_delimiter = ',', value_name = "PRESS:BUDGET,..")]
    press: Vec<PressChoice>,
    /// When the presses act [default: prefill_chunk:256,decode_every:32]
    #[arg(long, value_name = "WHEN")]
    schedule: Option<Schedule>,
    /// Element types of cached keys and values, as in f16,q8,q8/q4 (keys in q8, values in q4)
    #[arg(long, default_value = "f16", value_delimiter = ',', value_name = "f32|f16|q8|q4,..")]
    kv: Vec<KvTypes>,
    /// How keys and values are turned before they are stored, as in none,hadamard
    #[arg(long, default_value = "none", value_delimiter = ',', value_name = "none|hadamard,..")]
    kv_rotate: Vec<Maybe<KvRotation>>,
    /// What written tokens read of the cache, as in none,quest:1024 (tokens a head); none is all of it
    #[arg(long, default_value = "none", value_delimiter = ',', value_name = "none|quest:TOKENS,..")]
    read: Vec<Maybe<ReadPolicy>>,
    /// Numbers of threads; 0 means one for each physical core this process may use
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N,..")]
    threads: Vec<usize>,
    /// Sessions that go forward together
    #[arg(long, default_value = "1", value_delimiter = ',', value_name = "N,..")]
    batch: Vec<usize>,
    /// Timed runs of each case
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeat: usize,
    /// Most tokens read in one go
    #[arg(long, default_value_t = 512, value_name = "N")]
    prefill_chunk: usize,
    /// How weights are held: native, f32 or mapped
    #[arg(long, default_value = "native", value_name = "native|f32|mapped")]
    weights: WeightMode,
    /// Instruction set of the kernels (scalar, avx2, avx512, amx); default: the best of this processor
    #[arg(long, value_name = "SET")]
    isa: Option<Isa>,
    /// Quantise weights while loading (q8_0, q4_k_m, ...; the types of `meden quantize`)
    #[arg(long, value_name = "TYPE")]
    quantize: Option<Recipe>,
    /// Measure the machine instead: memory bandwidth, f32 and int8 peak
    #[arg(long)]
    limits: bool,
    /// One case, in a process of its own
    #[arg(long, hide = true, value_name = "JSON")]
    case: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if let Some(spec) = &args.case {
        let spec: Case = serde_json::from_str(spec).map_err(|e| usage(format!("--case: {e}")))?;
        return case::run(&spec);
    }
    if args.limits {
        return show_limits(&args, global);
    }
    let cases = cases(&args, global)?;
    let mut limits: Vec<(usize, Limits)> = Vec::new();
    for &threads in &args.threads {
        let pool = Pool::new(threads);
        limits.push((threads, limits::measure(&pool, args.isa.unwrap_or_else(Isa::best))));
    }
    let mut rows = Vec::with_capacity(cases.len());
    for (number, case) in cases.iter().enumerate() {
        let roof = limits.iter().find(|(threads, _)| *threads == case.model.threads).map(|(_, l)| l);
        let roof = roof.ok_or_else(|| failure(Exit::Other, "bench: a thread count was not measured"))?;
        rows.push(measure(case, (number + 1, cases.len()), roof, global)?);
    }
    if global.json {
        output::object(&rows)?;
        return Ok(Exit::Ok);
    }
    output::text(&view::table(&rows))?;
    if !global.quiet {
        let mut notes: Vec<&String> = rows.iter().flat_map(|row| &row.notes).collect();
        notes.dedup();
        notes.iter().for_each(|note| say(&format!("note: {note}")));
    }
    Ok(Exit::Ok)
}

fn show_limits(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let isa = args.isa.unwrap_or_else(Isa::best);
    if !isa.is_available() {
        return Err(usage(format!("--isa: this processor has no {isa}")));
    }
    let measured: Vec<Limits> = args.threads.iter().map(|&t| limits::measure(&Pool::new(t), isa)).collect();
    if global.json {
        let list: Vec<_> = measured
            .iter()
            .map(|l| {
                serde_json::json!({
                    "isa": isa.to_string(), "threads": l.threads,
                    "read_bytes_per_second": l.read_bytes_per_second,
                    "f32_ops_per_second": l.f32_ops_per_second,
                    "int8_ops_per_second": l.int8_ops_per_second,
                })
            })
            .collect();
        output::object(&list)?;
    } else {
        output::text(&view::limits_table(&isa.to_string(), &measured))?;
    }
    Ok(Exit::Ok)
}

/// Every combination that was asked for, after looking at the flags and at the models.
fn cases(args: &Args, global: Global) -> anyhow::Result<Vec<Case>> {
    if args.repeat == 0 {
        return Err(usage("--repeat: at least 1 run"));
    }
    if args.batch.contains(&0) {
        return Err(usage("--batch: at least 1 session"));
    }
    if args.schedule.is_some() && args.press.iter().all(|p| p.choice.is_none()) {
        return Err(usage("--schedule: there is no press that it could speak of; add one with --press"));
    }
    let tests = args.prompt.iter().map(|&n| (Test::Prompt, n)).chain(args.decode.iter().map(|&n| (Test::Gen, n)));
    let tests: Vec<(Test, usize)> = tests.filter(|(_, n)| *n > 0).collect();
    if tests.is_empty() {
        return Err(usage("--prompt and --gen: both are 0, so there is nothing to measure"));
    }
    let mut cases = Vec::new();
    for model in &args.model {
        let model = load::find(model, global.quiet)?.display().to_string();
        for &threads in &args.threads {
            let (weights, isa, quantize) = (args.weights, args.isa, args.quantize);
            let model = ModelArgs { model: model.clone(), threads, weights, isa, quantize };
            for (press, kv, kv_rotate, read) in caches(args) {
                for &depth in &args.depth {
                    for &(test, n) in &tests {
                        cases.extend(args.batch.iter().map(|&batch| Case {
                            model: model.clone(),
                            press: press.name.clone(),
                            policy: press.policy(args.schedule),
                            kv,
                            kv_rotate,
                            read: read.clone(),
                            prefill_chunk: args.prefill_chunk,
                            test,
                            n,
                            depth,
                            batch,
                            repeat: args.repeat,
                        }));
                    }
                }
            }
        }
    }
    Ok(cases)
}

/// A way to keep a cache, and to read it.
type Cache<'a> = (&'a PressChoice, KvTypes, Option<KvRotation>, Option<ReadPolicy>);

/// Every combination of what is asked of the cache.
fn caches(args: &Args) -> Vec<Cache<'_>> {
    let mut caches = Vec::new();
    for press in &args.press {
        for &kv in &args.kv {
            for rotate in &args.kv_rotate {
                caches.extend(args.read.iter().map(|read| (press, kv, rotate.0, read.0.clone())));
            }
        }
    }
    caches
}

fn measure(case: &Case, (number, of): (usize, usize), roof: &Limits, global: Global) -> anyhow::Result<Row> {
    let mut bar = Bar::new(global.quiet);
    let what = format!("case {number} of {of}: {}", case.name());
    bar.runs(&what, 0, case.repeat + 1);
    let mut result = None;
    child::run(("bench", "--case"), case, &mut |event| match event {
        Event::Run { done } => bar.runs(&what, done, case.repeat + 1),
        Event::Done(measured) => result = Some(*measured),
    })?;
    let measured =
        result.ok_or_else(|| failure(Exit::Other, "bench: its second process ended without a result; run it again"))?;
    Ok(Row::new(case, measured, roof))
}
