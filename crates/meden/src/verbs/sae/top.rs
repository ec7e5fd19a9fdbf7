//! `meden sae top`: what latents fire on, as a page.

use std::io::Write;
use std::path::PathBuf;

use meden_engine::text::Tokenizer;
use meden_engine::{Control, SessionOptions};
use meden_files::AtomicFile;
use meden_lens::capture::{RowOf, Selection, capture, exact_session};
use meden_lens::place::Positions;
use meden_lens::sae::{Moment, Sae, Top, TopLatent, load as load_sae};
use meden_report::html::{Page, escape};
use meden_report::human;

use super::place::{self, SaeArgs, sequences};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::{load, output, signals};

/// Tokens shown on either side of the one that a latent fired on.
const AROUND: usize = 12;
/// Sequences that are read together.
const TOGETHER: usize = 8;

/// Read a text and write a page with the strongest moments of some latents, each with the words around it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden sae top --sae sae-12 --text corpus.jsonl --latents 17,42 --out top.html")]
pub struct Args {
    #[command(flatten)]
    sae: SaeArgs,
    /// A corpus, or a plain text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Latents; default: the first twenty
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    latents: Vec<u32>,
    /// Moments shown of each
    #[arg(long, default_value_t = 10, value_name = "N")]
    moments: usize,
    /// Tokens that are read
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    tokens: usize,
    /// Tokens that are read together
    #[arg(long, default_value_t = 256, value_name = "N")]
    context: usize,
    /// The page
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let parts = load_sae(&args.sae.sae)?;
    let opened = load::open(&args.model, global.quiet)?;
    let loaded = opened.load(&SessionOptions::default(), args.context)?;
    let sae = Sae::new(parts, args.model.threads)?;
    let place = place::of(&sae, args.sae.site.as_deref(), &opened.config)?;
    let wanted: Vec<u32> = match args.latents.is_empty() {
        true => (0..20.min(sae.width() as u32)).collect(),
        false => args.latents.clone(),
    };
    if let Some(latent) = wanted.iter().find(|l| **l as usize >= sae.width()) {
        return Err(usage(format!("--latents: {latent}; this autoencoder has latents 0 to {}", sae.width() - 1)));
    }
    let ids = sequences(&args.text, opened.tokenizer()?, (args.context, args.tokens), (false, 0))?;
    let session = exact_session(&loaded.model)?;
    let positions: Positions = format!("1-{}", args.context - 1).parse()?;
    let selection = Selection::new(vec![place], positions);
    let mut top = Top::new(&wanted, args.moments.max(1));
    let mut bar = Bar::new(global.quiet);
    for (number, some) in ids.chunks(TOGETHER).enumerate() {
        bar.tokens("reading", number * TOGETHER * args.context, ids.len() * args.context);
        let mut control = Control { cancel: Some(signals::flag()), ..Control::default() };
        let captured = capture(&session, some, &selection, &mut control)?;
        let codes = sae.encode(captured.matrix(place).unwrap_or_default())?;
        let rows: Vec<RowOf> =
            captured.rows().iter().map(|r| RowOf { prompt: r.prompt + number * TOGETHER, ..*r }).collect();
        top.take(&codes, &rows);
    }
    bar.clear();
    let rows = top.rows();
    let found = top.finish();
    if global.json {
        output::object(&serde_json::json!({ "site": place.to_string(), "rows": rows, "latents": found }))?;
    }
    let title = format!("Latents of {place}");
    let lead = format!("{}, {} tokens read", opened.name(), human::count(rows));
    let mut page = Page::new(&title, &lead);
    page.style("mark{background:#ffe08a;padding:0 1px}.m{font:13px ui-monospace,monospace;white-space:pre-wrap}");
    for latent in &found {
        section(&mut page, latent, rows, (&ids, opened.tokenizer()?));
    }
    let mut file = AtomicFile::create(&args.out)?;
    file.write_all(page.finish().as_bytes())?;
    file.commit()?;
    if !global.quiet {
        say(&format!("{}: {} latents", args.out.display(), found.len()));
    }
    Ok(Exit::Ok)
}

fn section(page: &mut Page, latent: &TopLatent, rows: u64, (ids, tokenizer): (&[Vec<u32>], &Tokenizer)) {
    page.heading(&format!("Latent {}", latent.latent));
    let share = latent.fired as f64 / rows.max(1) as f64;
    page.paragraph(&format!("Active in {} of the tokens, {:.2} on average there.", human::percent(share), latent.mean));
    let line = |moment: &Moment| {
        let (text, at) = (&ids[moment.at.prompt], moment.at.position);
        let words = |part: &[u32]| escape(&tokenizer.decode(part, false));
        let (from, to) = (at.saturating_sub(AROUND), (at + 1 + AROUND).min(text.len()));
        format!(
            "<div class=\"m\">{:>7.2}  {}<mark>{}</mark>{}</div>",
            moment.value,
            words(&text[from..at]),
            words(&text[at..=at]),
            words(&text[at + 1..to])
        )
    };
    page.raw(&latent.moments.iter().map(line).collect::<String>());
}
