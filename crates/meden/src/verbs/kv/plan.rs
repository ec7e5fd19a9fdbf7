//! `meden kv plan`: the bytes of a cache, from the model's configuration alone.

use meden_engine::{Budget, Forecast, KvTypes, Policy, PressSpec, ReadPolicy, Run, SessionOptions};
use meden_eval::kv_lab::label;
use meden_report::{Table, human};
use serde::Serialize;

use super::lab::{PressList, SpareArgs};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::{load, output};

/// Bytes of the key-value cache for contexts, presses and budgets, exactly as the cache itself will count them.
///
/// Only the model's configuration is read, so the answer comes at once, for a model of any size. The peak is the most
/// that pages take at once while the prompt is read with the given schedule.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv plan
  meden kv plan -m model.gguf --context 8192,32768 --kv-budget 25%,2048,64MiB --kv f16,q8
  meden kv plan --press knorm,streaming_llm --kv-budget 512 --schedule prefill_end --json")]
pub struct Args {
    /// Tokens of the prompt [default: 512 to the model's context, in steps of 4]
    #[arg(long, value_delimiter = ',', value_name = "N,..")]
    context: Vec<usize>,
    /// Tokens decoded after the prompt
    #[arg(long, default_value_t = 0, value_name = "N")]
    decode: usize,
    /// Budgets: shares, tokens or bytes, as in 50%,512,8MiB
    #[arg(long, value_delimiter = ',', default_value = "50%,25%,12.5%", value_name = "BUDGET,..")]
    kv_budget: Vec<Budget>,
    /// Presses, as in knorm,streaming_llm; with parameters as in snapkv(window_size=32)
    #[arg(long, default_value = "knorm", value_name = "PRESS,..")]
    press: PressList,
    /// Element types of cached keys and values
    #[arg(long, value_delimiter = ',', default_value = "f16", value_name = "f32|f16|q8,..")]
    kv: Vec<KvTypes>,
    /// Most tokens read in one go
    #[arg(long, default_value_t = 512, value_name = "N")]
    prefill_chunk: usize,
    /// Read only some pages for each token of the answer, as in quest:1024: their bounds take bytes
    #[arg(long, value_name = "quest:TOKENS")]
    read: Option<ReadPolicy>,
    #[command(flatten)]
    spare: SpareArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// One line of the answer.
#[derive(Serialize)]
struct Row {
    context: usize,
    decode: usize,
    kv: KvTypes,
    press: Option<PressSpec>,
    budget: Option<Budget>,
    #[serde(flatten)]
    forecast: Option<Forecast>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// The one object of `meden kv plan --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    architecture: &'a str,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    model_context: usize,
    prefill_chunk: usize,
    rows: Vec<Row>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let opened = load::open(&args.model, global.quiet)?;
    let config = &opened.config;
    let contexts = if args.context.is_empty() { default_contexts(config.context) } else { args.context.clone() };
    for &context in &contexts {
        if context == 0 {
            return Err(usage("--context: 0 tokens take no bytes; give at least 1"));
        }
        opened.check_context("--context", context + args.decode)?;
    }
    let mut choices: Vec<Option<(PressSpec, Budget)>> = vec![None];
    for press in &args.press.0 {
        let own = press.build()?.own_budget();
        let budgets = if own { &[Budget::Press][..] } else { &args.kv_budget };
        choices.extend(budgets.iter().map(|budget| Some((press.clone(), *budget))));
    }
    let mut rows = Vec::new();
    for &kv in &args.kv {
        for &context in &contexts {
            for choice in &choices {
                let policy = choice.as_ref().map(|(press, budget)| args.spare.policy(press, *budget, None));
                rows.push(row(&args, config, (kv, context), policy));
            }
        }
    }
    if global.json {
        output::object(&Report {
            model: opened.name(),
            architecture: &config.architecture,
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            model_context: config.context,
            prefill_chunk: args.prefill_chunk,
            rows,
        })?;
    } else {
        let text = format!(
            "{}: {} layers, {} kv heads of {} channels\n\n{}{}",
            opened.name(),
            config.layers,
            config.kv_heads,
            config.head_dim,
            table(&rows, args.kv.len() > 1),
            notes(&rows)
        );
        output::text(&text)?;
    }
    Ok(Exit::Ok)
}

fn row(args: &Args, config: &meden_engine::Config, (kv, context): (KvTypes, usize), policy: Option<Policy>) -> Row {
    let named = policy.as_ref().map(|p| (p.press.clone(), p.budget)).unzip();
    let prefill_chunk = args.prefill_chunk;
    let read = args.read.clone();
    let options = SessionOptions { kv_type: kv, prefill_chunk, policy, read, ..SessionOptions::default() };
    let forecast = options.forecast(config, Run { prompt: context, decode: args.decode });
    let (forecast, refused) = match forecast {
        Ok(forecast) => (Some(forecast), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Row { context, decode: args.decode, kv, press: named.0, budget: named.1, forecast, refused }
}

/// 512, 2,048, 8,192, … and the model's own context.
fn default_contexts(most: usize) -> Vec<usize> {
    let mut contexts: Vec<usize> =
        std::iter::successors(Some(512usize), |c| c.checked_mul(4)).take_while(|&c| c < most).take(4).collect();
    contexts.push(most);
    contexts
}

fn table(rows: &[Row], with_kv: bool) -> Table {
    let mut header = vec!["context"];
    if with_kv {
        header.push("kv");
    }
    header.extend(["press", "budget", "kept", "KV cache", "of dense", "peak pages"]);
    let mut table = Table::new(header);
    let mut last = None;
    for row in rows {
        if last.is_some_and(|l| l != (row.kv, row.context)) {
            table.rule();
        }
        last = Some((row.kv, row.context));
        let mut cells = vec![human::count(row.context as u64)];
        if with_kv {
            cells.push(row.kv.to_string());
        }
        cells.push(row.press.as_ref().map_or_else(|| "dense".to_owned(), label));
        cells.push(row.budget.map_or_else(|| "-".to_owned(), |b| b.to_string()));
        match &row.forecast {
            Some(f) => cells.extend([
                human::count(f.kept_tokens_mean.round() as u64),
                human::bytes(f.kv_bytes),
                human::percent(f.kv_bytes as f64 / f.dense_bytes.max(1) as f64),
                human::bytes(f.peak_page_bytes),
            ]),
            None => cells.push("refused".to_owned()),
        }
        table.row(cells);
    }
    table
}

/// What the rows have to say, each once.
fn notes(rows: &[Row]) -> String {
    let mut notes: Vec<String> = Vec::new();
    for row in rows {
        let of_forecast = row.forecast.iter().flat_map(|f| f.notes.iter().cloned());
        for note in of_forecast.chain(row.refused.iter().map(|r| format!("refused: {r}"))) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    let lines: Vec<String> = notes.iter().map(|n| format!("note: {n}\n")).collect();
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_go_up_to_the_models_own() {
        assert_eq!(default_contexts(8192), [512, 2048, 8192]);
        assert_eq!(default_contexts(512), [512]);
        assert_eq!(default_contexts(1 << 20), [512, 2048, 8192, 32768, 1 << 20]);
    }
}
