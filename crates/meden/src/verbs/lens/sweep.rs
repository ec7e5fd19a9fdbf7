//! What patching and ablation share: the flags of a sweep and of its metric, tables and maps of what was measured.

use meden_lens::metric::Metric;
use meden_lens::place::{Layers, Positions, places};
use meden_lens::sweep::{By, Cell, Sweep, Swept};
use meden_report::grid::{Grid, GridCell, Scale};
use meden_report::svg::{LineChart, Series};
use meden_report::{Align, Table};

use super::words::Words;
use crate::load::Opened;

/// Flags of what is edited.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What is edited")]
pub struct SweepArgs {
    /// Layers: all, last, or as in 0-3,7,-1
    #[arg(long, default_value = "all", value_name = "LAYERS", allow_hyphen_values = true)]
    pub layers: String,
    /// Heads, where heads are edited, as in 0,2 [default: all]
    #[arg(long, value_name = "HEADS", value_delimiter = ',')]
    pub heads: Option<Vec<usize>>,
    /// Positions: all, last, or as in 0,4-9,-1
    #[arg(long, default_value = "all", value_name = "POSITIONS", allow_hyphen_values = true)]
    pub positions: String,
    /// What one measurement edits: a site of a layer, one head of it, one position of it, both, or all at once
    #[arg(long, default_value = "layer", value_name = "layer|head|position|head_position|together")]
    pub by: By,
}

impl SweepArgs {
    /// The sweep over some sites.
    pub fn sweep(&self, sites: &str, opened: &Opened) -> anyhow::Result<Sweep> {
        let layers: Layers = self.layers.parse()?;
        Ok(Sweep {
            places: places(sites, &layers, &opened.config)?,
            heads: self.heads.clone(),
            positions: self.positions.parse::<Positions>()?,
            by: self.by,
        })
    }
}

/// Flags of what is measured.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What is measured")]
pub struct MetricArgs {
    /// A number of the last token's output: logit_diff (a - b), logit, logprob, prob or rank of a, entropy, kl (from the
    /// run without any edit) [default: logit_diff with a and b, logprob with a, else kl]
    #[arg(long, value_name = "METRIC")]
    pub metric: Option<String>,
    /// The token the metric is about: a text, blanks count, or #id
    #[arg(long, value_name = "TOKEN")]
    pub a: Option<String>,
    /// The token it is compared with
    #[arg(long, value_name = "TOKEN")]
    pub b: Option<String>,
}

impl MetricArgs {
    /// The metric, its words, and what the user should know about the tokens.
    pub fn metric(&self, words: Words<'_>) -> anyhow::Result<(Metric, String, Vec<String>)> {
        let mut notes = Vec::new();
        let mut token = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<u32>> {
            let Some(text) = text else { return Ok(None) };
            let (id, note) = words.token(flag, text)?;
            notes.extend(note);
            Ok(Some(id))
        };
        let (a, b) = (token("--a", &self.a)?, token("--b", &self.b)?);
        let default = match (a, b) {
            (Some(_), Some(_)) => "logit_diff",
            (Some(_), None) => "logprob",
            _ => "kl",
        };
        let name = self.metric.as_deref().unwrap_or(default);
        let metric = Metric::new(name, a, b)?;
        let about: Vec<String> = metric.tokens().iter().map(|&id| words.shown(id)).collect();
        let text = match &metric {
            Metric::LogitDiff { .. } => format!("logit({}) - logit({})", about[0], about[1]),
            _ if about.is_empty() => name.to_owned(),
            _ => format!("{name}({})", about[0]),
        };
        Ok((metric, text, notes))
    }
}

/// The cells as a table: those with the largest effect where there are many.
pub fn table(swept: &Swept, ids: &[u32], words: Words<'_>, (metric, effect): (&str, &str)) -> Table {
    let mut header = vec!["place".to_owned()];
    let first = swept.cells.first();
    let (heads, positions) = (first.is_some_and(|c| c.head.is_some()), first.is_some_and(|c| c.position.is_some()));
    header.extend(heads.then(|| "head".to_owned()));
    header.extend(positions.then(|| "position".to_owned()));
    header.extend([metric.to_owned(), effect.to_owned()]);
    let mut table = Table::new(header);
    if positions {
        table = table.align(usize::from(heads) + 1, Align::Left);
    }
    for cell in shown(&swept.cells) {
        let mut cells = vec![cell.place.map_or_else(|| "all together".to_owned(), |p| p.to_string())];
        cells.extend(cell.head.map(|h| h.to_string()));
        cells.extend(cell.position.map(|p| format!("{p} {}", words.shown(ids[p]))));
        cells.extend([format!("{:.4}", cell.value), format!("{:.4}", cell.effect)]);
        table.row(cells);
    }
    table
}

/// Most rows of a table that are printed.
const ROWS: usize = 40;

/// All cells in their order, or the largest ones.
fn shown(cells: &[Cell]) -> Vec<&Cell> {
    let mut cells: Vec<&Cell> = cells.iter().collect();
    if cells.len() > ROWS {
        cells.sort_by(|a, b| b.effect.abs().total_cmp(&a.effect.abs()));
        cells.truncate(ROWS);
    }
    cells
}

/// A line for the user where not all cells were printed.
pub fn left_out(swept: &Swept) -> Option<String> {
    let more = swept.cells.len().checked_sub(ROWS + 1)? + 1;
    Some(format!("the {ROWS} largest of {} cells are shown; --json has all, {more} more", swept.cells.len()))
}

/// Maps of the cells: layers by positions or heads for each site; a line over layers where cells are places.
pub fn figures(swept: &Swept, ids: &[u32], words: Words<'_>, (effect, unit): (&str, Unit)) -> (Vec<Grid>, Vec<String>) {
    let mut sites: Vec<_> = swept.cells.iter().filter_map(|c| c.place).map(|p| p.site).collect();
    sites.sort_unstable();
    sites.dedup();
    let mut grids = Vec::new();
    let mut series = Vec::new();
    let every = swept.cells.iter().map(|c| c.effect);
    let scale = match unit {
        Unit::Share => Scale::Diverging { extent: 1.0 },
        Unit::Change => Scale::two_sided(every),
    };
    for site in sites {
        let of = |c: &&Cell| c.place.is_some_and(|p| p.site == site);
        let cells: Vec<&Cell> = swept.cells.iter().filter(of).collect();
        if cells.iter().all(|c| c.head.is_none() && c.position.is_none()) {
            let point = |c: &&Cell| c.place.map(|p| (p.layer as f64, c.effect));
            let points = cells.iter().filter_map(point).collect();
            series.push(Series { name: site.name().to_owned(), points, ..Series::default() });
            continue;
        }
        grids.push(map(site.name(), &cells, ids, words, (effect, scale)));
    }
    let chart = LineChart {
        title: effect.to_owned(),
        x_name: "layer".into(),
        y_from_zero: true,
        dots: true,
        series,
        ..LineChart::default()
    };
    let charts = if chart.series.is_empty() { Vec::new() } else { vec![chart.svg()] };
    (grids, charts)
}

/// What effects are measured in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Shares of a difference.
    Share,
    /// Changes of the metric.
    Change,
}

fn map(site: &str, cells: &[&Cell], ids: &[u32], words: Words<'_>, (effect, scale): (&str, Scale)) -> Grid {
    let column = |c: &Cell| (c.head.unwrap_or(0), c.position.unwrap_or(0));
    let mut columns: Vec<(usize, usize)> = cells.iter().map(|c| column(c)).collect();
    columns.sort_unstable();
    columns.dedup();
    let first = cells.first();
    let (heads, positions) = (first.is_some_and(|c| c.head.is_some()), first.is_some_and(|c| c.position.is_some()));
    let name = |&(head, position): &(usize, usize)| match (heads, positions) {
        (true, false) => format!("head {head}"),
        (false, _) => format!("{position} {}", words.shown(ids[position])),
        (true, true) => format!("head {head}, {position} {}", words.shown(ids[position])),
    };
    let mut layers: Vec<usize> = cells.iter().filter_map(|c| c.place).map(|p| p.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let compact = columns.len() > WORDY;
    let written = |c: &Cell| {
        if compact || c.effect.abs() < 0.05 * extent(scale) { String::new() } else { format!("{:+.2}", c.effect) }
    };
    let row = |&layer: &usize| {
        let find = |at: &(usize, usize)| {
            let found = cells.iter().find(|c| c.place.is_some_and(|p| p.layer == layer) && column(c) == *at);
            found.map_or_else(GridCell::default, |c| GridCell {
                value: c.effect,
                text: written(c),
                tip: format!("{site} of layer {layer}, {}\nmetric {:.4}, {effect} {:.4}", name(at), c.value, c.effect),
            })
        };
        (layer.to_string(), columns.iter().map(find).collect())
    };
    Grid {
        id: format!("map-{site}"),
        corner: "layer".into(),
        columns: columns.iter().map(name).collect(),
        // as the stream flows: the last layer at the top
        rows: layers.iter().rev().map(row).collect(),
        scale,
        legend: (format!("{:.2}", -extent(scale)), format!("{site}: {effect}"), format!("{:.2}", extent(scale))),
        compact,
    }
}

/// Columns up to which cells are wide enough for figures.
const WORDY: usize = 16;

fn extent(scale: Scale) -> f64 {
    match scale {
        Scale::Diverging { extent } => extent,
        Scale::Sequential { high, .. } => high,
    }
}
