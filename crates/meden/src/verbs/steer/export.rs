//! `meden steer export`: a steering as a control vector.

use std::collections::BTreeMap;
use std::path::PathBuf;

use meden_lens::steer::control_vector::ControlVector;
use meden_lens::steer::{Edit, Steering};

use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Write a control vector that llama.cpp adds with --control-vector. It points towards the text; a negative scale points
/// towards memory. A control vector is added to every token, whatever the row: of a difference of means that is the same
/// edit at more tokens, of SpARE it is an approximation (targets of one side less those of the other).
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden steer export --steer means.safetensors --out means.gguf")]
pub struct Args {
    /// The steering file
    #[arg(long, value_name = "FILE")]
    steer: PathBuf,
    /// The control vector
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let steering = Steering::open(&args.steer)?;
    let mut directions = BTreeMap::new();
    let mut approximate = false;
    for (place, edit) in &steering.edits {
        if place.site != meden_engine::Site::ResidPost {
            return Err(usage(format!("--steer: an edit at {place}; control vectors are added to resid_post")));
        }
        let direction: Vec<f32> = match edit {
            Edit::Add { vector, .. } => vector.clone(),
            Edit::Replace { context, memory } => context.iter().zip(memory).map(|(c, m)| c - m).collect(),
            Edit::Project { direction, targets } => direction.iter().map(|u| u * (targets[0] - targets[1])).collect(),
            Edit::Spectral(_) => {
                return Err(usage(format!(
                    "--steer: the edit at {place} projects rows and has no direction; export another method"
                )));
            }
            Edit::Latents(latents) => {
                let mut sum = vec![0f32; edit.d()];
                for n in 0..latents.context.len() {
                    let by = latents.context[n] - latents.memory[n];
                    sum.iter_mut().zip(latents.chosen.direction(n)).for_each(|(s, w)| *s += by * w);
                }
                sum
            }
        };
        approximate |= !matches!(edit, Edit::Add { keep_norm: false, .. });
        directions.insert(place.layer, direction);
    }
    let vector = ControlVector { model: steering.bound.architecture.clone(), directions };
    vector.write(&args.out)?;
    let back = ControlVector::read(&args.out)?;
    if back != vector {
        return Err(usage(format!("{}: what was written does not read back the same", args.out.display())));
    }
    if global.json {
        let layers: Vec<usize> = back.directions.keys().copied().collect();
        output::object(&serde_json::json!({"file": args.out, "layers": layers, "approximate": approximate}))?;
    } else if !global.quiet {
        say(&format!("{}: {} directions, read back the same", args.out.display(), back.directions.len()));
        if approximate {
            say("note: the edit depends on the row, a control vector does not: this is an approximation");
        }
    }
    Ok(Exit::Ok)
}
