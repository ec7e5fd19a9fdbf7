//! `meden kv`: what a compressed cache costs, what it has lost, and how to choose one.

mod alr;
mod calibrate;
mod lab;
mod load;
mod plan;
mod presses;
mod save;
mod show;
mod show_page;
mod sweep;
mod sweep_view;
mod tune;

use crate::cli::Global;
use crate::exit::Exit;

/// What is asked about the cache.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Say how many bytes a cache will take, before any weight is read
    Plan(plan::Args),
    /// List the presses: what they read, how they share out, their parameters
    Presses(presses::Args),
    /// Measure what presses lose: every press at every share on tasks made for it
    Sweep(sweep::Args),
    /// Show which tokens each layer and head kept of a text
    Show(show::Args),
    /// Show how well a press agrees with the attention that comes next, head by head
    Alr(alr::Args),
    /// Choose press, share and layers on your own text
    Tune(tune::Args),
    /// Read a document once, compress it, and save the cache
    Save(save::Args),
    /// Ask a saved cache
    Load(load::Args),
    /// Make the file that some presses need, from a text of your own
    Calibrate(calibrate::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Plan(args) => plan::run(args, global),
        Verb::Presses(args) => presses::run(&args, global),
        Verb::Sweep(args) => sweep::run(args, global),
        Verb::Show(args) => show::run(args, global),
        Verb::Alr(args) => alr::run(args, global),
        Verb::Tune(args) => tune::run(args, global),
        Verb::Save(args) => save::run(args, global),
        Verb::Load(args) => load::run(args, global),
        Verb::Calibrate(args) => calibrate::run(args, global),
    }
}
