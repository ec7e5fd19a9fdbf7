//! What a replica found.

use meden_report::html::Page;
use meden_report::svg::{Bar, BarChart, Unit};
use meden_report::{Table, human};
use meden_stats::interval::normal_mean;
use meden_stats::moments::mean;
use serde::Serialize;

use super::super::compare::Told;
use super::split::Counts;

/// An arm's runs: for each its figures, and whether it answered each test photo rightly.
pub(super) struct Judged {
    pub(super) name: &'static str,
    pub(super) rate: f64,
    pub(super) runs: Vec<Told>,
    pub(super) right: Vec<Vec<bool>>,
}

/// An arm of the table.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    rate: f64,
    seeds: usize,
    /// Mean over seeds, on the test photos.
    accuracy: f64,
    /// Lowest and highest of the seeds.
    range: [f64; 2],
    validation: f64,
    /// Against full tuning and against static tokens with even layers, photo by photo: mean and 95% interval.
    against_full: Option<[f64; 3]>,
    against_static: Option<[f64; 3]>,
    seconds_per_step: f64,
    flops_share: f64,
    activation_bytes: usize,
    step_peak_bytes: Option<u64>,
}

/// The one object of `meden vision replica --json`.
#[derive(Serialize)]
pub(super) struct Report {
    counts: Counts,
    arms: Vec<Row>,
    /// What adaptivity adds, in a sentence.
    finding: String,
}

/// For each photo the share of seeds that were right.
fn shares(judged: &Judged) -> Vec<f64> {
    let photos = judged.right.first().map_or(0, Vec::len);
    let seeds = judged.right.len().max(1) as f64;
    (0..photos).map(|i| judged.right.iter().filter(|r| r[i]).count() as f64 / seeds).collect()
}

/// Mean difference over the photos with its interval: photos vary, the seeds that were run are taken as they are.
fn against(own: &[f64], other: &[f64]) -> Option<[f64; 3]> {
    let differences: Vec<f64> = own.iter().zip(other).map(|(a, b)| a - b).collect();
    let interval = normal_mean(&differences, 0.95)?;
    Some([mean(&differences), interval.low, interval.high])
}

/// Puts the arms together.
pub(super) fn report(counts: &Counts, judged: &[Judged]) -> Report {
    let of = |name: &str| judged.iter().find(|j| j.name == name).map(shares);
    let (full, fixed) = (of("full"), of("static"));
    let compare = |own: &Judged, other: &Option<Vec<f64>>, name: &str| {
        other.as_ref().filter(|_| own.name != name).and_then(|o| against(&shares(own), o))
    };
    let arms: Vec<Row> = judged
        .iter()
        .map(|j| {
            let each: Vec<f64> =
                j.right.iter().map(|r| r.iter().filter(|b| **b).count() as f64 / r.len().max(1) as f64).collect();
            let over = |f: &dyn Fn(&Told) -> f64| mean(&j.runs.iter().map(f).collect::<Vec<f64>>());
            Row {
                name: j.name,
                rate: j.rate,
                seeds: j.runs.len(),
                accuracy: mean(&each),
                range: [each.iter().copied().fold(1.0, f64::min), each.iter().copied().fold(0.0, f64::max)],
                validation: over(&|t| t.outcome.best.map_or(0.0, |b| b.0)),
                against_full: compare(j, &full, "full"),
                against_static: compare(j, &fixed, "static"),
                seconds_per_step: over(&|t| t.seconds_per_step),
                flops_share: over(&|t| t.flops_per_image_mean / t.full_flops_per_image.max(1) as f64),
                activation_bytes: j.runs.iter().map(|t| t.activation_bytes_peak).max().unwrap_or_default(),
                step_peak_bytes: j.runs.iter().filter_map(|t| t.step_peak_bytes).max(),
            }
        })
        .collect();
    let finding = finding(&arms);
    Report { counts: counts.clone(), arms, finding }
}

fn points(d: [f64; 3]) -> String {
    format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * d[0], 100.0 * d[1], 100.0 * d[2])
}

fn finding(arms: &[Row]) -> String {
    let alast = arms.iter().find(|a| a.name == "alast").and_then(|a| a.against_static);
    let Some(d) = alast else {
        return "What adaptivity adds is not measured: the arms alast and static are both needed.".into();
    };
    if d == [0.0; 3] {
        return "ALaST and even layers with static tokens answered every test photo alike; in runs of fewer than some 20 \
                steps budgets have not moved yet."
            .into();
    }
    let says = match (d[1] > 0.0, d[2] < 0.0) {
        (true, _) => "adaptivity adds accuracy",
        (_, true) => "adaptivity costs accuracy",
        _ => "no difference is shown; what it is lies within the interval",
    };
    format!("ALaST against even layers with static tokens, in points of accuracy: {}: {says}.", points(d))
}

const HEAD: [&str; 10] = [
    "arm",
    "accuracy",
    "of seeds",
    "minus full, points",
    "minus static, points",
    "validation",
    "rate",
    "s a step",
    "mult-adds of full",
    "memory of steps",
];

impl Report {
    fn rows(&self) -> Vec<Vec<String>> {
        let dash = || "-".to_owned();
        self.arms
            .iter()
            .map(|a| {
                let range = a.range.map(human::percent);
                vec![
                    a.name.to_owned(),
                    human::percent(a.accuracy),
                    if a.seeds > 1 { format!("{} to {}", range[0], range[1]) } else { dash() },
                    a.against_full.map_or_else(dash, points),
                    a.against_static.map_or_else(dash, points),
                    human::percent(a.validation),
                    format!("{:.1e}", a.rate),
                    human::three_digits(a.seconds_per_step),
                    human::percent(a.flops_share),
                    a.step_peak_bytes.map_or_else(dash, human::bytes),
                ]
            })
            .collect()
    }

    /// The table, and what it says.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new(HEAD);
        for row in self.rows() {
            table.row(row);
        }
        format!("{table}\n{}\n", self.finding)
    }

    /// The page.
    pub(super) fn page(&self) -> String {
        let c = &self.counts;
        let lead = format!(
            "{} photos to train on, {} to choose by, {} to test; {} near duplicates of training photos left out",
            c.train, c.validation, c.test, c.near_duplicates
        );
        let mut page = Page::new("Methods of tuning compared", &lead);
        let bar = |a: &Row, value: f64, interval: Option<(f64, f64)>| Bar {
            name: a.name.to_owned(),
            value,
            interval,
            group: 0,
        };
        let accuracy = self.arms.iter().map(|a| bar(a, a.accuracy, (a.seeds > 1).then_some((a.range[0], a.range[1]))));
        let seconds = self.arms.iter().map(|a| bar(a, a.seconds_per_step, None));
        let chart = |title: &str, subtitle: &str, unit: Unit, bars: Vec<Bar>| {
            BarChart { title: title.into(), subtitle: subtitle.into(), unit, bars }.svg()
        };
        page.paragraph(&self.finding).figures(&[
            chart("Accuracy on the test photos", "mean, lowest and highest seed", Unit::Share, accuracy.collect()),
            chart("Seconds a step", "mean of the runs' medians", Unit::Plain, seconds.collect()),
        ]);
        page.table(&HEAD, &self.rows(), 1).paragraph(
            "Differences are taken photo by photo, seeds averaged; their 95% intervals speak of other photos, not of \
             other training sets. Memory is that of the process during steps, after five of warm-up.",
        );
        page.finish()
    }
}
