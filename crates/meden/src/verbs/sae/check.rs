//! `meden sae check`: does an autoencoder fit, and was it read as it was meant?

use std::path::PathBuf;

use meden_engine::{Control, SessionOptions};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::place::Positions;
use meden_lens::sae::{Check, Origin, Recovered, Sae, load as load_sae, recovered};
use meden_report::{Align, Table, human};
use serde::Serialize;

use super::place::{self, SaeArgs, sequences};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::Exit;
use crate::progress::{Bar, say};
use crate::{load, output, signals};

/// Read an autoencoder in the four ways that files leave open (b_dec taken off the input or not, rows scaled or not), on
/// real tokens: unexplained variance, active and dead latents, and what is left of the model's ability when it runs on
/// reconstructions.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden sae check --sae sae-12 --text book.txt")]
pub struct Args {
    #[command(flatten)]
    sae: SaeArgs,
    /// A corpus (its held-out part is read), or a plain text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens
    #[arg(long, default_value_t = 4096, value_name = "N")]
    tokens: usize,
    /// Tokens that are read together
    #[arg(long, default_value_t = 256, value_name = "N")]
    context: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden sae check --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    site: String,
    architecture: &'static str,
    width: usize,
    origin: &'a Origin,
    #[serde(flatten)]
    check: &'a Check,
    loss: Recovered,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let parts = load_sae(&args.sae.sae)?;
    let opened = load::open(&args.model, global.quiet)?;
    let loaded = opened.load(&SessionOptions::default(), args.context)?;
    let sae = Sae::new(parts, args.model.threads)?;
    let place = place::of(&sae, args.sae.site.as_deref(), &opened.config)?;
    let ids = sequences(&args.text, opened.tokenizer()?, (args.context, args.tokens), (true, 0))?;
    let session = exact_session(&loaded.model)?;
    let positions: Positions = format!("1-{}", args.context - 1).parse()?;
    let mut bar = Bar::new(global.quiet);
    let mut show = |done: usize, total: usize| bar.tokens("reading", done, total);
    let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
    let captured = capture(&session, &ids, &Selection::new(vec![place], positions), &mut control)?;
    let check = sae.check(captured.matrix(place).unwrap_or_default())?;
    let loss = recovered(&session, &ids, (&sae, place), &mut control)?;
    bar.clear();
    if global.json {
        output::object(&Report {
            model: opened.name(),
            site: place.to_string(),
            architecture: sae.activation().name(),
            width: sae.width(),
            origin: sae.origin(),
            check: &check,
            loss,
        })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["b_dec taken off", "scaled", "FVU", "L0", "dead", "cosine", "|x̂|/|x|", ""])
        .align(1, Align::Left)
        .align(7, Align::Left);
    for (number, c) in check.combinations.iter().enumerate() {
        let yes = |b: bool| if b { "yes" } else { "no" };
        let note = match (c.declared, check.better == Some(number)) {
            (true, _) => "as its file says",
            (_, true) => "explains much more: check the file",
            _ => "",
        };
        table.row([
            yes(c.subtract_b_dec),
            yes(c.scaled),
            &format!("{:.4}", c.fit.fvu),
            &format!("{:.1}", c.fit.l0),
            &human::percent(c.fit.dead),
            &format!("{:.4}", c.fit.cosine),
            &format!("{:.3}", c.fit.norm_ratio),
            note,
        ]);
    }
    output::text(&table.to_string())?;
    if !global.quiet {
        sae.origin().notes.iter().for_each(|note| say(&format!("note: {note}")));
        if check.better.is_some() {
            say("warning: another way of reading explains over a tenth of the variance more than the declared one");
        }
        say(&format!(
            "{} {}, {} latents, at {place}: loss {:.3} as it is, {:.3} on reconstructions, {:.3} on zeros: {:.1}% recovered",
            sae.origin().family,
            sae.activation().name(),
            human::count(sae.width() as u64),
            loss.clean,
            loss.spliced,
            loss.zero,
            100.0 * loss.recovered
        ));
    }
    Ok(Exit::Ok)
}
