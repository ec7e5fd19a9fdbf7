//! `meden lens attribute`: direct logit attribution.

use std::path::PathBuf;

use meden_lens::attribute::{Attribution, Contribution, Part, Question, Split, attribute};
use meden_report::{Table, human};
use serde::Serialize;

use super::attribute_page;
use super::input::{LookArgs, PromptArgs, watched, write_page};
use super::words::Words;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Say which parts of the model wrote a logit, or the difference of two. The last residual stream is a sum of what the
/// embedding and every sublayer added; with the final norm's scale frozen, so is a logit. Contributions are direct: what
/// a part does through later parts counts for those.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens attribute --prompt \"The capital of France is\" --a \" Paris\" --b \" Rome\"
  meden lens attribute --prompt \"The capital of France is\" --a \" Paris\" --b \" Rome\" --by head --html heads.html
  meden lens attribute --prompt \"The capital of France is\" --a \" Paris\" --by neuron --neurons 5")]
pub struct Args {
    /// The token whose logit is explained: a text, blanks count, or #id [default: the likeliest]
    #[arg(long, value_name = "TOKEN")]
    a: Option<String>,
    /// The token it is compared with; leave it out to explain the logit itself
    #[arg(long, value_name = "TOKEN")]
    b: Option<String>,
    /// The position whose output is explained, negative from the end
    #[arg(long, default_value_t = -1, value_name = "POSITION", allow_negative_numbers = true)]
    position: i64,
    /// Into what the logit is split
    #[arg(long, default_value = "layer", value_name = "layer|head|neuron")]
    by: Split,
    /// With --by neuron: neurons of a layer that are listed
    #[arg(long, default_value_t = 5, value_name = "N")]
    neurons: usize,
    /// Rows of the table, largest first; 0 for all
    #[arg(long, default_value_t = 20, value_name = "N")]
    rows: usize,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Serialize)]
struct Named<'a> {
    name: String,
    #[serde(flatten)]
    contribution: &'a Contribution,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    prompt: &'a [u32],
    a: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<u32>,
    by: Split,
    position: usize,
    total: f64,
    #[serde(rename = "model_value")]
    value: f64,
    contributions: Vec<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.a.is_none() && args.b.is_some() {
        return Err(usage("--b: it is compared with --a; give that too"));
    }
    let opened = args.look.open(global.quiet)?;
    let words = Words::new(&opened);
    let ids = args.prompt.read(&opened)?;
    let mut notes = Vec::new();
    let mut token = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<u32>> {
        let Some(text) = text else { return Ok(None) };
        let (id, note) = words.token(flag, text)?;
        notes.extend(note);
        Ok(Some(id))
    };
    let (a, b) = (token("--a", &args.a)?, token("--b", &args.b)?);
    let (_, session) = args.look.load(&opened, ids.len())?;
    let a = match a {
        Some(a) => a,
        None => likeliest(&session, &ids, args.position)?,
    };
    let question = Question { a, b, position: args.position, split: args.by, neurons: args.neurons };
    let found = watched("reading", global.quiet, |control| attribute(&session, &ids, &question, control))?;
    let asked = match b {
        Some(b) => format!("logit({}) - logit({})", words.shown(a), words.shown(b)),
        None => format!("logit({})", words.shown(a)),
    };
    if let Some(path) = &args.html {
        let view = attribute_page::View { model: &opened.name(), asked: &asked, ids: &ids, words, found: &found };
        write_page(path, &view.page(args.by))?;
    }
    if global.json {
        let named = |contribution| Named { name: contribution_name(contribution), contribution };
        output::object(&Report {
            model: opened.name(),
            prompt: &ids,
            a,
            b,
            by: args.by,
            position: found.position,
            total: found.total,
            value: found.model,
            contributions: found.contributions.iter().map(named).collect(),
            page: args.html.as_ref(),
        })?;
        return Ok(Exit::Ok);
    }
    output::text(&text(&found, &asked, args.rows))?;
    if !global.quiet {
        notes.iter().for_each(|note| say(&format!("note: {note}")));
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

fn contribution_name(contribution: &Contribution) -> String {
    contribution.part.to_string()
}

/// What the model would say at a position.
fn likeliest(session: &meden_engine::Session, ids: &[u32], position: i64) -> anyhow::Result<u32> {
    use meden_lens::place::Positions;
    let at = Positions::one(position).resolve(ids.len())?[0];
    let logits = session.fork()?.prefill(&ids[..=at], &mut meden_engine::Control::default())?;
    let lse = meden_lens::probability::log_sum_exp(&logits);
    Ok(meden_lens::probability::top(&logits, lse, 1).first().map_or(0, |t| t.id))
}

fn text(found: &Attribution, asked: &str, rows: usize) -> String {
    let mut order: Vec<&Contribution> = found.contributions.iter().collect();
    order.sort_by(|x, y| y.value.abs().total_cmp(&x.value.abs()));
    // what rounding left over is said in one line
    let rest = |c: &&&Contribution| matches!(c.part, Part::Rest { .. });
    let left: f64 = order.iter().filter(rest).map(|c| c.value).sum();
    order.retain(|c| !rest(&c));
    let all = order.len();
    if rows > 0 {
        order.truncate(rows);
    }
    let mut table = Table::new(["part", "adds"]);
    for contribution in &order {
        table.row([contribution_name(contribution), format!("{:+.4}", contribution.value)]);
    }
    let shown: f64 = order.iter().map(|c| c.value).sum();
    table.rule();
    if order.len() < all {
        let others = human::count((all - order.len()) as u64);
        table.row([format!("{others} others"), format!("{:+.4}", found.total - left - shown)]);
    }
    if left != 0.0 {
        table.row(["rounding, and neurons that are not listed".to_owned(), format!("{left:+.4}")]);
    }
    table.row(["sum".to_owned(), format!("{:+.4}", found.total)]);
    table.row(["the model's own".to_owned(), format!("{:+.4}", found.model)]);
    format!("{asked} at position {}\n\n{table}", found.position)
}
