//! What a run will take, shown before it begins.

use meden_kernels::Pool;
use meden_report::{Table, human};
use meden_train::vision::{Memory, Plan, Rehearsal, RunOptions, Trainer, rehearse};
use meden_vision::image::{Labelled, Preprocess};
use serde::Serialize;
use std::time::Duration;

pub(super) use meden_train::vision::plan;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output;

/// The one object of `meden vision finetune --plan --json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    batch: usize,
    rehearsal: Rehearsal,
}

/// Bytes during a step, without judging and saving.
pub(super) fn step_bytes(memory: &Memory) -> u64 {
    Memory { between: 0, ..*memory }.peak()
}

/// Runs two steps that leave nothing behind and says what the run will take.
pub(super) fn show(
    plan: &Plan,
    trainer: &mut Trainer,
    (train, validation): (&Labelled, usize),
    (preprocess, options, threads): (&Preprocess, &RunOptions, usize),
    global: Global,
) -> anyhow::Result<Exit> {
    let pool = Pool::new(threads);
    let rehearsal = rehearse(trainer, preprocess, (train, validation), options, &pool)?;
    if global.json {
        output::object(&Report { plan, batch: options.batch, rehearsal })?;
        return Ok(Exit::Ok);
    }
    let m = plan.memory;
    let mut table = Table::new(["", ""]);
    let mut row = |name: &str, value: String| {
        table.row([name.to_owned(), value]);
    };
    let share = plan.flops.total() as f64 / plan.full_flops.total() as f64;
    let giga = human::three_digits(plan.flops.total() as f64 / 1e9);
    row("steps", human::count(rehearsal.steps));
    row("seconds a step", human::three_digits(rehearsal.seconds_per_step));
    row("time in all, about", human::duration(Duration::from_secs_f64(rehearsal.seconds)));
    row("multiply-adds an image", format!("{giga} G, {} of full", human::percent(share)));
    row("parameters, first step", human::count(plan.trainable as u64));
    row("parameters, any step", human::count(plan.ever_trainable as u64));
    row("images at once", format!("{} of {}", plan.micro_batch, options.batch));
    for (name, bytes) in [
        ("weights", m.weights),
        ("moments", m.moments),
        ("gradients", m.gradients),
        ("activations", m.activations),
        ("pixels", m.data),
        ("buffers", m.scratch),
        ("judging or saving", m.between),
    ] {
        row(name, human::bytes(bytes));
    }
    row("memory, at most about", human::bytes(plan.peak_bytes));
    output::text(&format!("{table}"))?;
    Ok(Exit::Ok)
}
