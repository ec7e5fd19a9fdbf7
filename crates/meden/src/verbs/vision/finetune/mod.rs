//! `meden vision finetune`: a pretrained model, tuned to a folder of images.

mod args;
mod plan;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use meden_files::AtomicFile;
use meden_report::{Table, human, memory};
use meden_train::vision::{Event, Method, Outcome, Run, StepReport, fit, trainer_for};
use serde::Serialize;

pub use args::Args;

use crate::cli::Global;
use crate::exit::Exit;
use crate::progress::{Bar, say};
use crate::{output, signals};

/// The one object of `meden vision finetune --json`, and `result.json` in the folder of a run that ended.
#[derive(Serialize)]
struct Report {
    out: PathBuf,
    model: String,
    method: Method,
    seed: u64,
    image_size: [usize; 2],
    batch: usize,
    micro_batch: usize,
    rate: f64,
    epochs: u64,
    outcome: Outcome,
    train_images: usize,
    validation_images: usize,
    classes: usize,
    trainable_parameters: usize,
    parameters: usize,
    seconds: f64,
    /// Median, reading images included.
    seconds_per_step: f64,
    images_per_second: f64,
    flops_per_image_mean: f64,
    full_flops_per_image: u64,
    activation_bytes_peak: usize,
    /// Of the process during steps, from the sixth on, as the system counts it.
    step_peak_bytes: Option<u64>,
    /// Of the process in all.
    peak_bytes: Option<u64>,
    /// Weights, moments, gradients, activations and pixels, as they were held.
    tracked_bytes: u64,
    /// As the plan counts it before a run begins, without judging and saving.
    planned_step_bytes: u64,
    threads: usize,
    version: &'static str,
}

/// Steps after which the system's count of memory is begun anew.
const WARM_UP: usize = 5;

/// What is measured while steps go on.
struct Measured {
    last: Instant,
    seconds: Vec<f64>,
    activation: usize,
    flops: f64,
    step_peak: Option<u64>,
    peak: Option<u64>,
}

impl Measured {
    fn new() -> Measured {
        Measured { last: Instant::now(), seconds: Vec::new(), activation: 0, flops: 0.0, step_peak: None, peak: None }
    }

    fn step(&mut self, report: &StepReport) {
        self.seconds.push(self.last.elapsed().as_secs_f64());
        self.activation = self.activation.max(report.activation_bytes);
        self.flops += report.flops.total() as f64;
        self.note_peak();
        if self.seconds.len() > WARM_UP {
            self.step_peak = self.step_peak.max(memory::peak());
        } else if self.seconds.len() == WARM_UP {
            memory::reset_peak();
        }
        self.last = Instant::now();
    }

    fn epoch(&mut self) {
        self.note_peak();
        memory::reset_peak();
        self.last = Instant::now();
    }

    fn note_peak(&mut self) {
        self.peak = self.peak.max(memory::peak());
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let (train, validation) = args::data(&args)?;
    let (files, preprocess) = args.images.open(global)?;
    let mut options = args.options(files.config.layers);
    let counts = (train.paths.len(), validation.paths.len(), train.classes.len());
    let (threads, isa) = args.images.place();
    let size = preprocess.size;
    let mut rehearsing = trainer_for(&files, &train.classes, &options, (threads, isa))?;
    let plan = match args.memory {
        Some(limit) => fit(&rehearsing, size, options.batch, limit.0)?,
        None => plan::plan(&rehearsing, size, options.batch),
    };
    if args.memory.is_some() {
        options.trainer.micro_batch = plan.micro_batch;
    }
    if args.plan {
        if args.memory.is_some() {
            rehearsing = trainer_for(&files, &train.classes, &options, (threads, isa))?;
        }
        return plan::show(&plan, &mut rehearsing, (&train, counts.1), (&preprocess, &options, threads), global);
    }
    drop(rehearsing);
    let mut run =
        Run::open(&args.out, (&files, preprocess), (train, validation), options, (args.resume, threads, isa))?;
    let begun = run.trainer().step;
    if !global.quiet {
        say(&format!(
            "{} images of {} classes, {} held out; {} of {} parameters trained in the first step; about {} of memory{}",
            human::count(counts.0 as u64),
            counts.2,
            human::count(counts.1 as u64),
            human::count(plan.trainable as u64),
            human::count(plan.parameters as u64),
            human::bytes(plan.peak_bytes),
            if plan.parts > 1 { format!(", {} images at once", plan.micro_batch) } else { String::new() },
        ));
    }
    let (start, mut bar, mut measured) = (Instant::now(), Bar::new(global.quiet), Measured::new());
    let mut watch = |event: Event| match event {
        Event::Step(report, total) => {
            measured.step(report);
            bar.training(&live(report), report.step + 1, total);
        }
        Event::Judging(..) => {}
        Event::Epoch { epoch, accuracy, right } => {
            bar.clear();
            measured.epoch();
            if !global.quiet {
                say(&format!("epoch {epoch}: {} right ({} of {})", human::percent(accuracy), right.0, right.1));
            }
        }
        Event::Bad(problem) => say(&format!("left out: {problem}")),
    };
    let outcome = run.train(&mut watch, signals::flag())?;
    bar.clear();
    measured.note_peak();
    let steps = (outcome.steps - begun).max(1) as f64;
    let trainer = run.trainer();
    let moments = trainer.optimizer.first.len() + trainer.optimizer.second.len();
    let held = trainer.network.params.len() + trainer.average.as_ref().map_or(0, |a| a.len());
    let data = options.batch * 3 * size.0 * size.1;
    let numbers = moments + held + data + plan.trainable;
    let m = plan.memory;
    let report = Report {
        out: args.out.clone(),
        model: args.images.name().to_owned(),
        method: options.trainer.method,
        seed: options.trainer.seed,
        image_size: [size.0, size.1],
        batch: options.batch,
        micro_batch: plan.micro_batch,
        rate: options.rate,
        epochs: options.epochs,
        outcome,
        train_images: counts.0,
        validation_images: counts.1,
        classes: counts.2,
        trainable_parameters: plan.ever_trainable,
        parameters: plan.parameters,
        seconds: start.elapsed().as_secs_f64(),
        seconds_per_step: measured.median(),
        images_per_second: options.batch as f64 / measured.median().max(1e-9),
        flops_per_image_mean: measured.flops / steps,
        full_flops_per_image: plan.full_flops.total(),
        activation_bytes_peak: measured.activation,
        step_peak_bytes: measured.step_peak,
        peak_bytes: measured.peak,
        tracked_bytes: (4 * numbers + measured.activation) as u64,
        planned_step_bytes: plan::step_bytes(&m),
        threads,
        version: env!("CARGO_PKG_VERSION"),
    };
    // A run that was finished before and is only looked at again keeps what was measured then.
    if outcome.finished && outcome.steps > begun {
        let path = args.out.join("result.json");
        let mut file = AtomicFile::create(&path)?;
        file.write_all(format!("{}\n", serde_json::to_string_pretty(&report)?).as_bytes())?;
        file.commit()?;
    }
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&table(&report))?;
    }
    Ok(if outcome.finished { Exit::Ok } else { Exit::Interrupted })
}

/// What stands beside the bar.
fn live(report: &StepReport) -> String {
    let mut text = format!("loss {:.3}", report.loss);
    if !report.budgets.is_empty() {
        let mean = report.budgets.iter().sum::<f64>() / report.budgets.len() as f64;
        text += &format!(", budget {mean:.2}, {} tokens last", report.tokens.last().copied().unwrap_or_default());
    }
    text
}

fn table(report: &Report) -> String {
    let mut table = Table::new(["", ""]);
    let accuracy = |a: Option<f64>| a.map_or("-".to_owned(), human::percent);
    let mut row = |name: &str, value: String| {
        table.row([name.to_owned(), value]);
    };
    row("accuracy, best", accuracy(report.outcome.best.map(|b| b.0)));
    row("accuracy, last", accuracy(report.outcome.last));
    row("steps", human::count(report.outcome.steps));
    row("seconds a step", human::three_digits(report.seconds_per_step));
    row("images a second", human::three_digits(report.images_per_second));
    row("multiply-adds an image", human::three_digits(report.flops_per_image_mean / 1e9) + " G");
    row("activations kept, peak", human::bytes(report.activation_bytes_peak as u64));
    row("process, peak", report.peak_bytes.map_or("-".to_owned(), human::bytes));
    let end = if report.outcome.finished { "" } else { "interrupted; continue with --resume\n" };
    format!("{table}\n{}\n{end}", report.out.display())
}
