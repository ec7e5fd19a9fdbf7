//! `meden vision evaluate`: what embeddings are worth on labelled images.

use std::path::PathBuf;

use meden_kernels::Pool;
use meden_report::{Table, human};
use meden_stats::interval::wilson;
use meden_vision::image::{Labelled, image_folder};
use meden_vision::judge::{LinearOptions, fit_linear, knn, normalise};
use serde::Serialize;

use super::images::{ImageArgs, Outputs, PoolArg, Skipped};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::Bar;
use crate::{output, signals};

/// Judge a model's embeddings: images of one folder are classified by what the images of another say, by their nearest
/// neighbours and by a linear classifier. Each folder holds one folder a class.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden vision evaluate --train clothing/train --test clothing/test")]
pub struct Args {
    /// Labelled images to learn from: FOLDER/<class>/*
    #[arg(long, value_name = "FOLDER")]
    train: PathBuf,
    /// Labelled images to judge by
    #[arg(long, value_name = "FOLDER")]
    test: PathBuf,
    /// The vector of an image: the class token, the mean of its patches, or both
    #[arg(long, default_value = "cls", value_name = "cls|mean|cls+mean")]
    pool: PoolArg,
    /// Neighbours that vote
    #[arg(long, default_value_t = 10, value_name = "K")]
    neighbours: usize,
    /// Inverse strength of the linear classifier's penalty, on vectors of length one
    #[arg(long, default_value_t = 30.0, value_name = "C")]
    c: f64,
    #[command(flatten)]
    images: ImageArgs,
}

/// A share with its interval.
#[derive(Serialize)]
struct Accuracy {
    accuracy: f64,
    interval: [f64; 2],
    right: usize,
    images: usize,
}

/// The one object of `meden vision evaluate --json`.
#[derive(Serialize)]
struct Report {
    model: String,
    classes: Vec<String>,
    train_images: usize,
    knn: Accuracy,
    neighbours: usize,
    linear: Accuracy,
    c: f64,
    linear_iterations: usize,
    linear_converged: bool,
    linear_recall: Vec<Option<f64>>,
    images_per_second: f64,
    skipped: Vec<Skipped>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.neighbours == 0 || !(args.c > 0.0 && args.c.is_finite()) {
        return Err(usage("--neighbours and --c have to be positive"));
    }
    let (train, test) = (image_folder(&args.train)?, image_folder(&args.test)?);
    if train.classes != test.classes {
        return Err(usage(format!(
            "{} has the classes {:?}, {} has {:?}; they have to be the same",
            args.train.display(),
            train.classes,
            args.test.display(),
            test.classes
        )));
    }
    let ready = args.images.ready(global)?;
    let pooling = args.pool.0;
    let embed = |what: &str, set: &Labelled| {
        ready.run(what, &set.paths, |model, pixels, size| model.embed(pixels, size, pooling))
    };
    let (mut known, mut asked) = (embed("embedding train", &train)?, embed("embedding test", &test)?);
    let labels = |set: &Labelled, outputs: &Outputs| outputs.indices.iter().map(|i| set.labels[*i]).collect::<Vec<_>>();
    let (known_labels, asked_labels) = (labels(&train, &known), labels(&test, &asked));
    let (width, classes) = (known.width(), train.classes.len());
    normalise(&mut known.values, width);
    normalise(&mut asked.values, width);
    let pool = Pool::new(ready.model.threads());
    let near = knn(&pool, (&known.values, &known_labels), &asked.values, (width, classes), args.neighbours)?;
    let mut bar = Bar::new(global.quiet);
    let options = LinearOptions { c: args.c, ..LinearOptions::default() };
    let mut progress = |done: usize| bar.steps("fitting", done, options.iterations);
    let shape = (width, classes);
    let watch: (&mut dyn FnMut(usize), _) = (&mut progress, Some(signals::flag()));
    let fitted = fit_linear(&pool, (&known.values, &known_labels), shape, options, watch)?;
    bar.clear();
    if signals::interrupted() {
        return Err(crate::exit::failure(Exit::Interrupted, "interrupted while the classifier was fitted"));
    }
    let found: Vec<usize> = asked.values.chunks_exact(width).map(|row| fitted.predict(row)).collect();
    let recall = |class: usize| {
        let own: Vec<usize> = (0..found.len()).filter(|i| asked_labels[*i] == class).collect();
        let right = own.iter().filter(|i| found[**i] == class).count();
        (!own.is_empty()).then(|| right as f64 / own.len() as f64)
    };
    let report = Report {
        train_images: known_labels.len(),
        knn: accuracy(&near, &asked_labels),
        neighbours: args.neighbours,
        linear: accuracy(&found, &asked_labels),
        c: args.c,
        linear_iterations: fitted.iterations,
        linear_converged: fitted.converged,
        linear_recall: (0..classes).map(recall).collect(),
        images_per_second: (known.indices.len() + asked.indices.len()) as f64
            / (known.time + asked.time).as_secs_f64().max(1e-9),
        skipped: [known.skipped, asked.skipped].concat(),
        model: ready.name,
        classes: train.classes,
    };
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&table(&report))?;
    }
    Ok(Exit::Ok)
}

fn accuracy(found: &[usize], labels: &[usize]) -> Accuracy {
    let right = found.iter().zip(labels).filter(|(a, b)| a == b).count();
    let interval = wilson(right as u64, labels.len() as u64, 0.95).map_or([0.0, 1.0], |i| [i.low, i.high]);
    Accuracy { accuracy: right as f64 / labels.len().max(1) as f64, interval, right, images: labels.len() }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(["judge", "accuracy", "95% interval", "right"]);
    let rows = [
        (format!("{} nearest neighbours", report.neighbours), &report.knn),
        (format!("linear, C = {}", report.c), &report.linear),
    ];
    for (name, a) in rows {
        let [low, high] = a.interval.map(human::percent);
        table.row([
            name,
            human::percent(a.accuracy),
            format!("{low} to {high}"),
            format!("{} of {}", a.right, a.images),
        ]);
    }
    let mut recalls = Table::new(["class", "recall (linear)"]);
    for (class, recall) in report.classes.iter().zip(&report.linear_recall) {
        recalls.row([class.clone(), recall.map_or("-".to_owned(), human::percent)]);
    }
    let note = if report.linear_converged { "" } else { "note: the linear fit did not converge\n" };
    format!(
        "{} images to learn from, {:.1} images/s\n\n{table}\n{recalls}{note}",
        human::count(report.train_images as u64),
        report.images_per_second
    )
}
