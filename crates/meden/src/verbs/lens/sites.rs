//! `meden lens sites`: the places of a model and what other tools call them.

use meden_lens::place::{Layers, Names, Place, names, places};
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::Exit;
use crate::{load, output};

/// List the places of a model that can be captured and edited, with their widths and their names in TransformerLens and
/// Hugging Face transformers. Every name may be used wherever sites are asked for.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens sites
  meden lens sites --sites 'blocks.*.attn.hook_*' --layers all --json")]
pub struct Args {
    /// Sites, with * for any letters
    #[arg(long, default_value = "*", value_name = "SITES")]
    sites: String,
    /// Layers: all, last, or as in 0-3,7
    #[arg(long, default_value = "0", value_name = "LAYERS", allow_hyphen_values = true)]
    layers: String,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    names: Names,
    width: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    layers: usize,
    sites: Vec<Row>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let opened = load::open(&args.model, global.quiet)?;
    let mut config = opened.config.clone();
    if config.vocab == 0
        && let Some(tokenizer) = &opened.tokenizer
    {
        config.vocab = tokenizer.vocab_size();
    }
    let layers: Layers = args.layers.parse()?;
    let found = places(&args.sites, &layers, &config)?;
    let row = |&place: &Place| Row {
        names: names(place, &config),
        width: place.width(&config),
        heads: place.site.heads(&config),
    };
    let rows: Vec<Row> = found.iter().map(row).collect();
    if global.json {
        output::object(&Report { model: opened.name(), layers: config.layers, sites: rows })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["name", "width", "heads", "TransformerLens", "Hugging Face"])
        .align(3, Align::Left)
        .align(4, Align::Left);
    for row in rows {
        let heads = row.heads.map(|h| h.to_string()).unwrap_or_default();
        let width = if row.width == 0 { "?".to_owned() } else { human::count(row.width as u64) };
        let module = row.names.hugging_face.unwrap_or_else(|| "-".to_owned());
        table.row([row.names.name, width, heads, row.names.transformer_lens, module]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}
