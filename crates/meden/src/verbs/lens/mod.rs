//! `meden lens`: what happens inside a model, one question a file.

mod ablate;
mod attribute;
mod attribute_page;
mod capture;
mod conflict;
mod conflict_files;
mod conflict_page;
pub mod input;
mod logits;
mod logits_page;
mod patch;
mod patterns;
mod patterns_page;
mod sites;
mod stats;
mod sweep;
mod tune;
mod words;

use crate::cli::Global;
use crate::exit::Exit;

/// What is asked of a model's inside.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Write activations to a safetensors file
    Capture(capture::Args),
    /// Show what the model would say if it stopped at each layer
    Logits(logits::Args),
    /// Say which layers, heads or neurons wrote a logit
    Attribute(attribute::Args),
    /// Show which tokens the heads read
    Patterns(patterns::Args),
    /// Put activations of one prompt into another, and measure what comes back
    Patch(patch::Args),
    /// Take parts of the model out, and measure what is lost
    Ablate(ablate::Args),
    /// Measure how activations are spread: moments, sparsity, norms
    Stats(stats::Args),
    /// Study what the model does, and where it can be seen, when a text contradicts what it knows
    Conflict(conflict::Args),
    /// Train a tuned lens on a text
    Tune(tune::Args),
    /// List the places of a model under their names in several tools
    Sites(sites::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Capture(args) => capture::run(args, global),
        Verb::Logits(args) => logits::run(args, global),
        Verb::Attribute(args) => attribute::run(args, global),
        Verb::Patterns(args) => patterns::run(args, global),
        Verb::Patch(args) => patch::run(args, global),
        Verb::Ablate(args) => ablate::run(args, global),
        Verb::Stats(args) => stats::run(args, global),
        Verb::Conflict(args) => conflict::run(args, global),
        Verb::Tune(args) => tune::run(args, global),
        Verb::Sites(args) => sites::run(args, global),
    }
}
