//! `meden audit reproduce`: the numbers of MMLU-Redux from its data.

use std::path::PathBuf;
use std::time::Instant;

use meden_eval::audit::detect::{self, Evidence, Quality, quality};
use meden_eval::audit::predictions::{self, Predictions, View, outcomes, scores};
use meden_eval::audit::{Label, Labelled, combine, judged, labels};
use meden_eval::choice::Item;
use meden_report::Table;
use meden_stats::correlation::competition_ranks;
use meden_stats::interval::wilson;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output;
use crate::progress::say;

/// Counts labels, scores models before and after correction, judges the judges, and measures each detector beside a
/// random order and beside flagging everything.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden audit reproduce redux_csv --predictions helm_predictions.csv --judges judge_verdicts.csv")]
pub struct Args {
    /// The folder of the MMLU-Redux files
    redux: PathBuf,
    /// What models answered: a CSV with a column `id` and one a model
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Verdicts of judges: a CSV with a column `id` and one a judge; anything but `ok` is a flag
    #[arg(long, value_name = "FILE")]
    judges: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let redux = labels::read(&args.redux)?;
    if !global.quiet {
        redux.notes.iter().for_each(|n| say(&format!("note: {n}")));
        redux.rows.iter().filter_map(Labelled::contradiction).for_each(|c| say(&format!("note: {c}")));
    }
    let mut tables = vec![("Labels", label_table(&redux.rows))];
    if let Some(path) = &args.predictions {
        let given = predictions::read(path)?;
        tables.push(("Accuracy", accuracy_table(&redux.rows, &given)));
        let (table, gain) = detector_table(redux.rows.clone(), &given);
        tables.push(("Detectors", table));
        tables.extend(gain.map(|g| ("Combination against vote margin", g)));
    }
    if let Some(path) = &args.judges {
        tables.push(("Judges (means over subjects in %)", judge_table(&redux.rows, &predictions::read(path)?)));
    }
    if global.json {
        let object: serde_json::Map<String, serde_json::Value> =
            tables.into_iter().map(|(name, rows)| (name.to_owned(), rows.into())).collect();
        output::object(&object)?;
        return Ok(Exit::Ok);
    }
    for (name, rows) in tables {
        let mut rows = rows.into_iter();
        let mut table = Table::new(rows.next().unwrap_or_default()).indent(2);
        rows.for_each(|r| {
            table.row(r);
        });
        output::text(&format!("{name}\n{table}\n"))?;
    }
    Ok(Exit::Ok)
}

type Rows = Vec<Vec<String>>;

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn label_table(rows: &[Labelled]) -> Rows {
    let mut table = vec![header(&["subject"])];
    table[0].extend(Label::ALL.map(|l| l.name().to_owned()));
    table[0].push("not ok, 95%".to_owned());
    let mut subjects: Vec<&str> = rows.iter().map(|r| r.item.subject.as_str()).collect();
    subjects.dedup();
    let mut line = |name: &str, of: &dyn Fn(&Labelled) -> bool| {
        let here: Vec<&Labelled> = rows.iter().filter(|r| of(r)).collect();
        let count = |l: Label| here.iter().filter(|r| r.label == l).count();
        let wrong = (here.len() - count(Label::Ok)) as u64;
        let ends = wilson(wrong, here.len() as u64, 0.95);
        let mut cells = vec![name.to_owned()];
        cells.extend(Label::ALL.map(|l| count(l).to_string()));
        cells.push(ends.map_or_else(String::new, |i| format!("{:.2} to {:.2}%", 100.0 * i.low, 100.0 * i.high)));
        table.push(cells);
    };
    subjects.iter().for_each(|s| line(s, &|r: &Labelled| r.item.subject == *s));
    line("all", &|_| true);
    table
}

fn accuracy_table(rows: &[Labelled], given: &Predictions) -> Rows {
    let mut table = vec![header(&["model"])];
    let views = View::ALL.map(|v| scores(&outcomes(rows, given, v, |_| true), given.models.len()));
    for (view, scores) in View::ALL.iter().zip(&views) {
        let n = scores.first().map_or(0, |s| s.n);
        table[0].extend([format!("{} ({n})", view.name()), "95%".to_owned(), "rank".to_owned()]);
    }
    let ranks = views
        .each_ref()
        .map(|v| competition_ranks(&v.iter().map(|s| s.share().unwrap_or(f64::NAN)).collect::<Vec<_>>()));
    for (m, model) in given.models.iter().enumerate() {
        let mut cells = vec![model.clone()];
        for (scores, ranks) in views.iter().zip(&ranks) {
            let ends = scores[m].interval(0.95).map_or_else(String::new, |i| format!("{:.3} to {:.3}", i.low, i.high));
            cells.extend([
                scores[m].share().map_or_else(|| "-".to_owned(), |s| format!("{s:.4}")),
                ends,
                ranks[m].to_string(),
            ]);
        }
        table.push(cells);
    }
    table
}

/// Detectors on the items that have answers and are not left to a specialist; the gain of the combination.
fn detector_table(mut rows: Vec<Labelled>, given: &Predictions) -> (Rows, Option<Rows>) {
    rows.retain(|r| r.label != Label::Expert && given.answers.contains_key(&r.item.id));
    let items: Vec<Item> = rows.iter().map(|r| r.item.clone()).collect();
    let faulty: Vec<bool> = rows.iter().map(|r| r.label != Label::Ok).collect();
    let base = faulty.iter().filter(|f| **f).count() as f64 / faulty.len().max(1) as f64;
    let evidence = Evidence::new(&items, Some(given));
    let mut table = vec![header(&["detector", "AP", "AUC", "P@100", "lift", "seconds"])];
    let mut line = |name: &str, q: Option<Quality>, seconds: f64| {
        let Some(q) = q else { return };
        let area = q.auroc.map_or_else(|| "-".to_owned(), |a| format!("{a:.3}"));
        let [ap, at, lift] = [q.average_precision, q.at_100, q.lift].map(|v| format!("{v:.3}"));
        table.push(vec![name.to_owned(), ap, area, at, lift, format!("{seconds:.2}")]);
    };
    let detectors = detect::all();
    let mut margin = Vec::new();
    for detector in &detectors {
        let start = Instant::now();
        let found = detect::scores(&detector.scan(&evidence));
        line(detector.name(), quality(&faulty, &found), start.elapsed().as_secs_f64());
        if margin.is_empty() {
            margin = found;
        }
    }
    let start = Instant::now();
    let features = combine::features(&evidence, &detectors);
    let folds = combine::folds(&items);
    let combined = combine::out_of_fold(&features, &faulty, &folds);
    if let Some(c) = &combined {
        line("combined, out of fold", quality(&faulty, &c.scores), start.elapsed().as_secs_f64());
    }
    line("flag everything, or at random", quality(&faulty, &vec![0.0; faulty.len()]), 0.0);
    table[0][0] = format!("{} items, {base:.4} faulty", items.len());
    let gain = combined.map(|c| {
        let mut lines = vec![header(&["items", "gain in AP", "95% (subjects drawn)"])];
        for (name, without) in [("all", ""), ("without virology", "virology")] {
            let at: Vec<usize> = (0..items.len()).filter(|&i| items[i].subject != without).collect();
            let pick = |v: &[f64]| at.iter().map(|&i| v[i]).collect::<Vec<_>>();
            let labels: Vec<bool> = at.iter().map(|&i| faulty[i]).collect();
            let mut names: Vec<&str> = items.iter().map(|i| i.subject.as_str()).collect();
            names.dedup();
            let number = |s: &str| names.iter().position(|n| *n == s).unwrap_or(0) as u32;
            let subjects: Vec<u32> = at.iter().map(|&i| number(&items[i].subject)).collect();
            if let Some((gain, ends)) = combine::difference(&labels, &pick(&c.scores), &pick(&margin), &subjects) {
                lines.push(vec![
                    name.to_owned(),
                    format!("{gain:+.3}"),
                    format!("{:+.3} to {:+.3}", ends.low, ends.high),
                ]);
            }
        }
        lines
    });
    (table, gain)
}

fn judge_table(rows: &[Labelled], verdicts: &Predictions) -> Rows {
    let mut table = vec![header(&["judge", "R", "F1", "F2", "TP", "FP", "FN", "TN", "agreement", "kappa", "AC1"])];
    for judge in judged::judges(rows, verdicts) {
        let mut cells = vec![judge.name];
        cells.extend(judge.macro_means.map(|m| format!("{:.2}", 100.0 * m)));
        let c = judge.pooled;
        cells.extend([c.true_positive, c.false_positive, c.false_negative, c.true_negative].map(|v| format!("{v:.0}")));
        let or_dash = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
        cells.extend([judge.agreement, judge.kappa, judge.ac1].map(or_dash));
        table.push(cells);
    }
    table
}
