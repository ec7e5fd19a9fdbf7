//! `meden vision predict`: the likeliest classes of images.

use std::path::PathBuf;

use meden_kernels::{Isa, ops};
use meden_report::{Align, Table, human};
use meden_vision::image::images_under;
use serde::Serialize;

use super::images::{ImageArgs, Skipped};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;

/// Say what is on images, with the likeliest classes first. A folder stands for every image in it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden vision predict -m tuned/ photo.jpg
  meden vision predict -m tuned/ photos/ --top-k 3 --json --skip-bad")]
pub struct Args {
    /// Images or folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Classes to show for each image
    #[arg(long, default_value_t = 5, value_name = "K")]
    top_k: usize,
    #[command(flatten)]
    images: ImageArgs,
}

/// The one object of `meden vision predict --json`.
#[derive(Serialize)]
struct Report {
    model: String,
    images: Vec<Image>,
    skipped: Vec<Skipped>,
    seconds: f64,
    images_per_second: f64,
}

#[derive(Serialize)]
struct Image {
    path: PathBuf,
    top: Vec<Guess>,
}

#[derive(Serialize)]
struct Guess {
    class: String,
    index: usize,
    probability: f32,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.top_k == 0 {
        return Err(usage("--top-k 0: at least one class has to be shown"));
    }
    let mut paths = Vec::new();
    for path in &args.paths {
        paths.extend(images_under(path)?);
    }
    let ready = args.images.ready(global)?;
    let classes = &ready.model.config().classes;
    if classes.is_empty() {
        return Err(usage(format!(
            "{}: this model has no classifier; tune one on labelled images first, or use `meden vision embed`",
            ready.name
        )));
    }
    let outputs = ready.run("looking", &paths, |model, pixels, size| model.logits(pixels, size))?;
    let mut images = Vec::new();
    for (row, index) in outputs.values.chunks_exact(classes.len()).zip(&outputs.indices) {
        let mut p = row.to_vec();
        ops::softmax_row(Isa::best(), &mut p);
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
        let guess = |i: &usize| Guess { class: classes[*i].clone(), index: *i, probability: p[*i] };
        images.push(Image { path: paths[*index].clone(), top: order.iter().take(args.top_k).map(guess).collect() });
    }
    if global.json {
        let (seconds, images_per_second) = (outputs.time.as_secs_f64(), outputs.rate());
        output::object(&Report { model: ready.name, images, skipped: outputs.skipped, seconds, images_per_second })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["image", "class", "probability"]).align(1, Align::Left);
    for image in &images {
        for (i, guess) in image.top.iter().enumerate() {
            let path = if i == 0 { image.path.display().to_string() } else { String::new() };
            table.row([path, guess.class.clone(), human::percent(f64::from(guess.probability))]);
        }
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}
