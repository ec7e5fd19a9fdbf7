//! `meden vision embed`: images to vectors.

use std::fmt::Write as _;
use std::path::PathBuf;

use meden_files::safetensors_file::SafetensorsWriter;
use meden_kernels::DType;
use meden_report::human;
use meden_vision::image::images_under;
use meden_vision::judge::normalise;
use serde::Serialize;

use super::images::{ImageArgs, PoolArg, Skipped};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;

/// Turn images into vectors, one a line as JSON, or all in one safetensors file.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden vision embed photos/ --out photos.safetensors
  meden vision embed photo.jpg --pool cls+mean --normalise")]
pub struct Args {
    /// Images or folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The vector of an image: the class token, the mean of its patches, or both
    #[arg(long, default_value = "cls", value_name = "cls|mean|cls+mean")]
    pool: PoolArg,
    /// Divide each vector by its length, so that products are cosines
    #[arg(long, visible_alias = "normalize")]
    normalise: bool,
    /// Write a safetensors file: tensor `embeddings` (images, width), the paths as JSON in its metadata
    #[arg(long, short, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
}

/// The one object of `meden vision embed --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    width: usize,
    images: Vec<Image<'a>>,
    skipped: Vec<Skipped>,
    seconds: f64,
    images_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<&'a PathBuf>,
}

#[derive(Serialize)]
struct Image<'a> {
    path: &'a PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.out.as_ref().is_some_and(|p| p.extension().is_none_or(|e| e != "safetensors")) {
        return Err(usage("--out: the file's name has to end in .safetensors"));
    }
    let mut paths = Vec::new();
    for path in &args.paths {
        paths.extend(images_under(path)?);
    }
    let ready = args.images.ready(global)?;
    let pooling = args.pool.0;
    let mut outputs = ready.run("embedding", &paths, |model, pixels, size| model.embed(pixels, size, pooling))?;
    let width = outputs.width();
    if args.normalise {
        normalise(&mut outputs.values, width);
    }
    let kept: Vec<&PathBuf> = outputs.indices.iter().map(|i| &paths[*i]).collect();
    if let Some(out) = &args.out {
        let bytes = outputs.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let writer = SafetensorsWriter::new()
            .meta("paths", &serde_json::to_string(&kept)?)
            .meta("model", &ready.name)
            .tensor("embeddings", DType::F32, &[kept.len(), width], bytes);
        writer.write(out)?;
    }
    let rows = outputs.values.chunks_exact(width.max(1));
    if global.json {
        let shown = args.out.is_none();
        let images = kept.iter().zip(rows).map(|(path, row)| Image { path, embedding: shown.then_some(row) }).collect();
        output::object(&Report {
            model: ready.name.clone(),
            width,
            images,
            seconds: outputs.time.as_secs_f64(),
            images_per_second: outputs.rate(),
            skipped: outputs.skipped.clone(),
            out: args.out.as_ref(),
        })?;
    } else if let Some(out) = &args.out {
        let (count, rate) = (human::count(kept.len() as u64), outputs.rate());
        output::text(&format!("{}: {count} images x {width}, {rate:.1} images/s\n", out.display()))?;
    } else {
        let mut text = String::new();
        for (path, embedding) in kept.iter().zip(rows) {
            let line = serde_json::to_string(&Image { path, embedding: Some(embedding) })?;
            let _ = writeln!(text, "{line}");
        }
        output::text(&text)?;
    }
    Ok(Exit::Ok)
}
