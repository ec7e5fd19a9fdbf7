//! `meden steer collect`: what the model does with texts that contradict it, and its activations where it decides.

use std::path::PathBuf;

use meden_engine::{Control, SessionOptions};
use meden_eval::study::conflict::ask::Asker;
use meden_eval::study::conflict::behaviour::{Outcome, Source, observe};
use meden_eval::study::conflict::cells::{Cell, Says, cells};
use meden_eval::study::conflict::companions::Companions;
use meden_eval::study::conflict::memory::{Recall, recall};
use meden_eval::study::conflict::prompt::{Demos, closed_book_demonstrations};
use meden_eval::study::steer::collect::collect;
use meden_eval::task::Codec;
use meden_lens::place::Layers;
use meden_report::{Table, human};
use meden_stats::Rng;

use super::study::{SEED, SETS, Setup, Work, design, facts, fingerprint, sets};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::Exit;
use crate::progress::{Bar, say};
use crate::{load, output, signals};

/// Ask every fact closed book; ask those that the model knows again with texts that say otherwise, behind three kinds of
/// demonstrations; and keep the activations of the last token of every prompt that was answered from the text or from
/// memory. Every answer is written down as it comes: the same command goes on where an earlier one was stopped.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden steer collect --work study --layers 10-16")]
pub struct Args {
    /// Folder of the study
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,
    /// Layers whose output (resid_post) is kept
    #[arg(long, value_name = "N-N,N")]
    layers: String,
    /// Facts of your own, in the format of the program's (see docs/steering.md)
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Most facts of one answer
    #[arg(long, default_value_t = 8, value_name = "N")]
    per_answer: usize,
    /// Contexts of each fact
    #[arg(long, default_value_t = 2, value_name = "N")]
    contexts: usize,
    /// False answers of each fact, 1 or 2
    #[arg(long, default_value_t = 2, value_name = "N")]
    others: usize,
    /// Most rows kept of each source, drawn at random; the rarer source has fewer than this anyway
    #[arg(long, default_value_t = 2000, value_name = "N")]
    most: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let work = Work::new(&args.work)?;
    let (relations, hash) = facts(args.facts.as_deref())?;
    let opened = load::open(&args.model, global.quiet)?;
    let layers = args.layers.parse::<Layers>()?.resolve(opened.config.layers)?;
    let loaded = opened.load(&SessionOptions::default(), 1024)?;
    let setup = Setup {
        model: fingerprint(&loaded.model),
        facts: hash,
        per_answer: args.per_answer,
        contexts: args.contexts,
        others: args.others,
    };
    work.bind(&setup)?;
    let codec = Codec::new(Some(opened.tokenizer()?), None, opened.config.vocab)?;
    let asker = Asker { model: &loaded.model, codec: &codec };
    let mut bar = Bar::new(global.quiet);
    let mut show = |what: &str, done: usize, total: usize| bar.steps(what, done, total);
    let mut tell = |text: &str| {
        if !global.quiet {
            crate::progress::say(text);
        }
    };
    let mut companions = Companions { progress: &mut show, say: &mut tell, cancel: signals::flag() };

    let closed = sets(&relations, (1, 6));
    let first = closed.first().map(Vec::as_slice).unwrap_or_default();
    let prefix = asker.prefix(&closed_book_demonstrations(first), &mut Control::default())?;
    let mut memory = work.journal::<Recall>("memory.jsonl")?;
    recall(&asker, (&relations, &prefix), &mut memory, &mut companions)?;
    let design = design(&asker, &relations, &memory, args.per_answer)?;
    let wanted = asked(cells(&relations, &design, SETS.0), args.contexts, args.others);
    let demos = sets(&relations, SETS);
    let mut behaviour = work.journal::<Outcome>("behaviour.jsonl")?;
    observe(&asker, (&relations, &design), (&wanted, &demos), &mut behaviour, &mut companions)?;
    let decided = draw(&wanted, args.most, |c| behaviour.get(&c.key(&relations, &design)).map(|o| o.source));
    let rows = collect(&asker, (&relations, &design), (&decided, &demos), (&behaviour, &layers), &mut companions)?;
    bar.clear();
    rows.save(&work.file("rows.safetensors"), &setup.model)?;

    let count =
        |demos: Demos, context: bool| rows.rows.iter().filter(|r| r.demos == demos && r.context == context).count();
    if global.json {
        let by: Vec<_> = Demos::SHOWN
            .iter()
            .map(|d| serde_json::json!({"demos": d.name(), "context": count(*d, true), "memory": count(*d, false)}))
            .collect();
        output::object(&serde_json::json!({"facts": design.cases.len(), "prompts": wanted.len(), "rows": by}))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["demonstrations", "prompts", "from the text", "from memory"]);
    for demos in Demos::SHOWN {
        let prompts = wanted.iter().filter(|c| c.demos == demos).count();
        table.row([
            demos.name(),
            &human::count(prompts as u64),
            &human::count(count(demos, true) as u64),
            &human::count(count(demos, false) as u64),
        ]);
    }
    output::text(&table.to_string())?;
    if !global.quiet {
        say(&format!("{} facts that the model knows; {} rows kept", design.cases.len(), rows.rows.len()));
    }
    Ok(Exit::Ok)
}

/// Conflicting prompts with demonstrations, of the first contexts and false answers.
fn asked(cells: Vec<Cell>, contexts: usize, others: usize) -> Vec<Cell> {
    let says = |c: &Cell| matches!(c.says, Says::Other(n) if n < others);
    cells.into_iter().filter(|c| says(c) && c.demos != Demos::None && c.context < contexts).collect()
}

/// At most so many prompts of each source, in their order.
fn draw(cells: &[Cell], most: usize, source: impl Fn(&Cell) -> Option<Source>) -> Vec<Cell> {
    let mut chosen = Vec::new();
    for (stream, wanted) in [Source::Context, Source::Memory].into_iter().enumerate() {
        let mut of: Vec<Cell> = cells.iter().filter(|c| source(c) == Some(wanted)).copied().collect();
        Rng::new(SEED, stream as u64).shuffle(&mut of);
        chosen.extend(of.into_iter().take(most));
    }
    chosen.sort_unstable();
    chosen
}
