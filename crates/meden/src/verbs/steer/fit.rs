//! `meden steer fit`: a steering file of collected activations.

use std::path::PathBuf;

use meden_engine::SessionOptions;
use meden_eval::study::steer::collect::Collected;
use meden_eval::study::steer::fit::{Method, fit, power, stability};
use meden_report::{Align, Table};

use super::study::{EditArgs, Work};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::Exit;
use crate::progress::say;
use crate::{load, output};

/// Random halves that the choice of latents is compared on.
const HALVES: usize = 20;
/// Shares of the rows of each source that a planted latent fires on, and how many are planted.
const PLANTED: ([f64; 2], usize) = ([0.6, 0.4], 50);

/// Fit a steering on everything that was collected. To know how well it works, use `meden steer eval`, which fits on four
/// folds and tests on the fifth.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden steer fit --work study --sae sae-12 --out spare.safetensors
  meden steer fit --work study --method means --layers 12 --out means.safetensors")]
pub struct Args {
    /// Folder of the study
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,
    /// spare, means, means-keep-norm, projection, task-vector, or a control (see docs/steering.md)
    #[arg(long, default_value = "spare", value_name = "METHOD")]
    method: Method,
    /// Where it goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    edit: EditArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let work = Work::new(&args.work)?;
    let setup = work.setup()?;
    let options = args.edit.options()?;
    let opened = load::open(&args.model, global.quiet)?;
    let loaded = opened.load(&SessionOptions::default(), 1)?;
    let collected = Collected::open(&work.file("rows.safetensors"), &setup.model)?;
    let (dictionaries, layers) = args.edit.dictionaries(&opened, (&collected, args.model.threads))?;
    let rows = collected.training(None, options.balance, options.seed);
    let fitted = fit(&loaded.model, &rows, (&layers, &dictionaries), (args.method, &options))?;
    fitted.steering.save(&args.out)?;
    let (mut stable, mut found) = (Vec::new(), Vec::new());
    for (layer, _) in &fitted.selected {
        stable.push(stability(&rows, (*layer, &dictionaries), (&options, HALVES))?);
        found.push(power(&rows, (*layer, &dictionaries), &options, PLANTED)?);
    }
    if global.json {
        output::object(&serde_json::json!({
            "file": args.out,
            "method": args.method,
            "rows": {"context": fitted.rows[0], "memory": fitted.rows[1]},
            "selected": fitted.selected,
            "stability": stable,
            "power": found,
        }))?;
        return Ok(Exit::Ok);
    }
    for (((layer, selected), stable), found) in fitted.selected.iter().zip(&stable).zip(&found) {
        let mut table = Table::new(["latent", "nats", "side", "difference", "target"]).align(2, Align::Left);
        for chosen in selected.chosen.iter().take(20) {
            table.row([
                chosen.latent.to_string().as_str(),
                &format!("{:.4}", chosen.information),
                if chosen.is_context() { "text" } else { "memory" },
                &format!("{:+.3}", chosen.difference),
                &format!("{:.3}", chosen.target),
            ]);
        }
        output::text(&table.to_string())?;
        let context = selected.chosen.iter().filter(|c| c.is_context()).count();
        say(&format!(
            "layer {layer}: {} of {} latents that fire, {context} of them for the text; chance {}; halves agree to {}",
            selected.chosen.len(),
            selected.live,
            selected.threshold.map_or("-".into(), |t| format!("{t:.4} nats")),
            stable.map_or("-".into(), |s| format!("{s:.2}"))
        ));
        if let Some(found) = found {
            let weak = if *found < 0.8 { ": too few rows for this rule; try --rule rate:0.01 or top:32" } else { "" };
            say(&format!(
                "layer {layer}: of latents that fire on {:.0}% of the prompts of one source and {:.0}% of the other, \
                 planted among them, the rule takes {:.0}%{weak}",
                100.0 * PLANTED.0[0],
                100.0 * PLANTED.0[1],
                100.0 * found
            ));
        }
    }
    if !global.quiet {
        say(&format!("{}: {}", args.out.display(), fitted.steering.note));
    }
    Ok(Exit::Ok)
}
