//! The page of `meden lens attribute`.

use meden_lens::attribute::{Attribution, Contribution, Part, Split};
use meden_report::grid::{Grid, GridCell, Scale};
use meden_report::html::Page;
use meden_report::svg::{Bar, BarChart, LineChart, Series};

use super::words::Words;

/// What is shown.
pub struct View<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// What was asked.
    pub asked: &'a str,
    /// The prompt.
    pub ids: &'a [u32],
    /// Its words.
    pub words: Words<'a>,
    /// What was found.
    pub found: &'a Attribution,
}

/// Bars of the chart of the largest parts.
const BARS: usize = 16;

impl View<'_> {
    /// The page.
    pub fn page(&self, split: Split) -> String {
        let found = self.found;
        let lead = format!(
            "{}; {} at position {}: the parts add up to {:+.3}, the model's own is {:+.3}",
            self.model, self.asked, found.position, found.total, found.model
        );
        let mut page = Page::new(&format!("Which parts wrote {}", self.asked), &lead);
        page.style(Grid::STYLE);
        page.list(&[format!("prompt: {}", self.ids.iter().map(|&id| self.words.raw(id)).collect::<String>())]);
        page.paragraph(
            "Contributions are direct: what a part added to the last residual stream, through the final norm (its scale \
             frozen) and the output matrix. What a part does through later parts counts for those.",
        );
        page.figures(&[self.largest(), self.by_layer()]);
        if split == Split::Head {
            page.heading("Heads");
            page.raw(&self.heads().html());
        }
        page.finish()
    }

    fn largest(&self) -> String {
        let mut order: Vec<&Contribution> = self.found.contributions.iter().collect();
        order.sort_by(|x, y| y.value.abs().total_cmp(&x.value.abs()));
        let bar = |c: &&Contribution| Bar {
            name: c.part.to_string(),
            value: c.value,
            // as in the map: orange adds, blue takes away
            group: usize::from(c.value > 0.0),
            ..Bar::default()
        };
        BarChart {
            title: "The largest parts".into(),
            subtitle: format!("{} of {} parts", order.len().min(BARS), order.len()),
            bars: order.iter().take(BARS).map(bar).collect(),
            ..BarChart::default()
        }
        .svg()
    }

    fn by_layer(&self) -> String {
        let layers = self.found.contributions.iter().filter_map(|c| layer(c.part)).max().map_or(0, |l| l + 1);
        let (mut attention, mut mlp) = (vec![0.0; layers], vec![0.0; layers]);
        let mut embed = 0.0;
        let neurons = self.found.contributions.iter().any(|c| matches!(c.part, Part::Neuron { .. }));
        for c in &self.found.contributions {
            match c.part {
                Part::Embed => embed += c.value,
                Part::AttnOut { layer } | Part::Head { layer, .. } => attention[layer] += c.value,
                Part::MlpOut { layer } | Part::Neuron { layer, .. } => mlp[layer] += c.value,
                // parts of the sublayer that was split
                Part::Bias { layer } | Part::Rest { layer } if neurons => mlp[layer] += c.value,
                Part::Bias { layer } | Part::Rest { layer } => attention[layer] += c.value,
            }
        }
        let line = |name: &str, values: Vec<f64>| Series {
            name: name.into(),
            points: values.into_iter().enumerate().map(|(l, v)| (l as f64, v)).collect(),
            ..Series::default()
        };
        let mut sum = embed;
        let running = (0..layers).map(|l| {
            sum += attention[l] + mlp[l];
            sum
        });
        let running = running.collect();
        LineChart {
            title: "Layer by layer".into(),
            subtitle: format!("the embedding adds {embed:+.3}"),
            x_name: "layer".into(),
            y_name: self.asked.into(),
            y_from_zero: true,
            dots: true,
            series: vec![line("attention", attention), line("feed-forward", mlp), line("sum so far", running)],
            ..LineChart::default()
        }
        .svg()
    }

    fn heads(&self) -> Grid {
        let of = |layer: usize, head: usize| {
            let part = Part::Head { layer, head };
            self.found.contributions.iter().find(|c| c.part == part).map(|c| c.value)
        };
        let all = self.found.contributions.iter().filter_map(|c| match c.part {
            Part::Head { layer, head } => Some((layer, head, c.value)),
            _ => None,
        });
        let all: Vec<(usize, usize, f64)> = all.collect();
        let layers = all.iter().map(|h| h.0).max().map_or(0, |l| l + 1);
        let heads = all.iter().map(|h| h.1).max().map_or(0, |h| h + 1);
        let scale = Scale::two_sided(all.iter().map(|h| h.2));
        let extent = match scale {
            Scale::Diverging { extent } => extent,
            Scale::Sequential { high, .. } => high,
        };
        let cell = |layer: usize, head: usize| {
            let value = of(layer, head).unwrap_or(f64::NAN);
            let text = if value.abs() >= 0.25 * extent { format!("{value:+.2}") } else { String::new() };
            GridCell { value, text, tip: format!("layer {layer}, head {head}: {value:+.4}") }
        };
        Grid {
            id: "heads".into(),
            corner: "layer".into(),
            columns: (0..heads).map(|h| format!("head {h}")).collect(),
            rows: (0..layers).rev().map(|l| (l.to_string(), (0..heads).map(|h| cell(l, h)).collect())).collect(),
            scale,
            legend: (format!("{:.2}", -extent), self.asked.to_owned(), format!("{extent:.2}")),
            compact: false,
        }
    }
}

fn layer(part: Part) -> Option<usize> {
    match part {
        Part::Embed => None,
        Part::AttnOut { layer }
        | Part::MlpOut { layer }
        | Part::Head { layer, .. }
        | Part::Neuron { layer, .. }
        | Part::Bias { layer }
        | Part::Rest { layer } => Some(layer),
    }
}
