//! `meden lens stats`: how activations are spread.

use std::path::PathBuf;

use meden_lens::capture::{CaptureFile, Selection, capture};
use meden_lens::shape::{PlaceShape, WITHOUT, shapes};
use meden_report::Table;
use meden_report::html::Page;
use meden_report::svg::{LineChart, Series};
use meden_stats::Distribution;
use serde::Serialize;

use super::input::{LookArgs, PromptsArgs, watched, write_page};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Measure how activations are spread over their channels, row by row, and average over rows: moments (kurtosis is 3 for
/// a Gaussian), sparsity (Hoyer, Gini), norms, participation, shares of the largest channels.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens stats --prompt \"The capital of France is\"
  meden lens stats --prompts facts.jsonl --positions last --sites resid_post,mlp_out --html shape.html
  meden lens stats --from acts.safetensors --json")]
pub struct Args {
    /// Sites with commas, * for any letters; see `meden lens sites`
    #[arg(long, default_value = "resid_post", value_name = "SITES")]
    sites: String,
    /// Layers: all, last, or as in 0-3,7,-1
    #[arg(long, default_value = "all", value_name = "LAYERS", allow_hyphen_values = true)]
    layers: String,
    /// Positions of each prompt: all, last, or as in 0,4-9,-1
    #[arg(long, default_value = "all", value_name = "POSITIONS", allow_hyphen_values = true)]
    positions: String,
    /// A file of `meden lens capture` instead of prompts; all places and rows in it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids", "prompts", "text"])]
    from: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    prompts: PromptsArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// A place's means and deviations by name.
#[derive(Serialize)]
struct Row {
    place: String,
    layer: usize,
    site: &'static str,
    rows: usize,
    mean: serde_json::Map<String, serde_json::Value>,
    deviation: serde_json::Map<String, serde_json::Value>,
    /// Excess kurtosis without the channels of largest variance, by how many are left out.
    excess_kurtosis_without: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Report {
    source: String,
    measures: [&'static str; 15],
    places: Vec<Row>,
}

impl Row {
    fn new(shape: &PlaceShape) -> Row {
        let named = |values: &[f64]| {
            let pairs = Distribution::NAMES.iter().zip(values);
            pairs.map(|(name, &value)| ((*name).to_owned(), value.into())).collect()
        };
        let without = WITHOUT.iter().zip(&shape.excess_kurtosis_without);
        Row {
            place: shape.place.to_string(),
            layer: shape.place.layer,
            site: shape.place.site.name(),
            rows: shape.rows,
            mean: named(&shape.mean),
            deviation: named(&shape.deviation),
            excess_kurtosis_without: without.map(|(k, &value)| (k.to_string(), value.into())).collect(),
        }
    }
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let (source, shapes) = match &args.from {
        Some(path) => (path.display().to_string(), of_file(&args, path)?),
        None => of_prompts(&args, global.quiet)?,
    };
    if let Some(path) = &args.html {
        write_page(path, &page(&source, &shapes))?;
    }
    if global.json {
        let places = shapes.iter().map(Row::new).collect();
        output::object(&Report { source, measures: Distribution::NAMES, places })?;
        return Ok(Exit::Ok);
    }
    output::text(&table(&shapes).to_string())?;
    if !global.quiet {
        let rows = shapes.first().map_or(0, |s| s.rows);
        say(&format!(
            "means over {rows} rows; --json has all {} measures and their deviations",
            Distribution::NAMES.len()
        ));
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

fn of_prompts(args: &Args, quiet: bool) -> anyhow::Result<(String, Vec<PlaceShape>)> {
    let opened = args.look.open(quiet)?;
    let prompts = args.prompts.read(&opened)?;
    let selection = Selection::parse(&opened.config, &args.sites, &args.layers, &args.positions)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let (_, session) = args.look.load(&opened, longest)?;
    let captured = watched("reading", quiet, |control| capture(&session, &prompts, &selection, control))?;
    Ok((opened.name(), shapes(&captured)?))
}

/// A place at a time, so that memory is that of one.
fn of_file(args: &Args, path: &std::path::Path) -> anyhow::Result<Vec<PlaceShape>> {
    for (flag, given) in [
        ("--sites", args.sites != "resid_post"),
        ("--layers", args.layers != "all"),
        ("--positions", args.positions != "all"),
    ] {
        if given {
            return Err(usage(format!("{flag} would be ignored beside --from: the file's places are measured")));
        }
    }
    let file = CaptureFile::open(path)?;
    let mut all = Vec::new();
    for &place in file.places() {
        all.extend(shapes(&file.load(&[place])?)?);
    }
    Ok(all)
}

/// The measures of the table.
const COLUMNS: [&str; 8] = ["kurtosis", "hoyer", "gini", "l1", "l2", "participation", "top_1_share", "top_4_share"];

fn column(name: &str) -> usize {
    Distribution::NAMES.iter().position(|n| *n == name).unwrap_or(0)
}

fn table(shapes: &[PlaceShape]) -> Table {
    let mut table = Table::new(std::iter::once("place").chain(COLUMNS));
    for shape in shapes {
        let mut cells = vec![shape.place.to_string()];
        for name in COLUMNS {
            let value = shape.mean[column(name)];
            cells.push(match name {
                "kurtosis" | "l1" | "l2" => format!("{value:.2}"),
                _ => format!("{value:.4}"),
            });
        }
        table.row(cells);
    }
    table
}

fn page(source: &str, shapes: &[PlaceShape]) -> String {
    let rows = shapes.first().map_or(0, |s| s.rows);
    let mut page = Page::new("How activations are spread", &format!("{source}; means over {rows} rows"));
    let mut sites: Vec<_> = shapes.iter().map(|s| s.place.site).collect();
    sites.sort_unstable();
    sites.dedup();
    let chart = |name: &str| {
        let series = |&site: &meden_engine::Site| Series {
            name: site.name().to_owned(),
            points: shapes
                .iter()
                .filter(|s| s.place.site == site)
                .map(|s| (s.place.layer as f64, s.mean[column(name)]))
                .collect(),
            ..Series::default()
        };
        LineChart {
            title: name.replace('_', " "),
            x_name: "layer".into(),
            dots: true,
            series: sites.iter().map(series).collect(),
            ..LineChart::default()
        }
        .svg()
    };
    page.paragraph(
        "Each measure is of one row, over its channels, averaged over rows. Kurtosis is 3 for a Gaussian; Hoyer and Gini \
         are 0 for equal magnitudes and 1 for a single non-zero channel; participation is the share of channels that the \
         squared norm is spread over.",
    );
    let charts: Vec<String> = COLUMNS.iter().map(|name| chart(name)).collect();
    page.figures(&charts);
    page.finish()
}
