//! `meden probe`: directions in activations that tell two classes apart, from captures to probes and back.

mod apply;
mod eval;
mod labels;
mod train;
mod view;

use crate::cli::Global;
use crate::exit::Exit;

/// What is done with a probe.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Make a probe of captured activations and labels, judge it and its controls, save it
    Train(train::Args),
    /// Judge a saved probe on other activations
    Eval(eval::Args),
    /// Ask a saved probe about a prompt or captured activations
    Apply(apply::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Train(args) => train::run(args, global),
        Verb::Eval(args) => eval::run(args, global),
        Verb::Apply(args) => apply::run(args, global),
    }
}
