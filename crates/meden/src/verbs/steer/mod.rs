//! `meden steer`: make a model answer from the text it is given, or from what it has learnt.

mod collect;
mod compare;
mod export;
mod fit;
mod page;
mod run;
mod study;

use crate::cli::Global;
use crate::exit::Exit;

/// What is done.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Ask a model facts with texts that contradict them, and keep the activations of its decisions
    Collect(collect::Args),
    /// Make a steering file of collected activations
    Fit(fit::Args),
    /// Answer a prompt under a steering
    Run(run::Args),
    /// Test steering methods and strengths on facts that they were not fitted on, with their damage and controls
    Eval(compare::Args),
    /// Write a steering as a control vector (GGUF) that llama.cpp reads
    Export(export::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Collect(args) => collect::run(&args, global),
        Verb::Fit(args) => fit::run(&args, global),
        Verb::Run(args) => run::run(&args, global),
        Verb::Eval(args) => compare::run(&args, global),
        Verb::Export(args) => export::run(&args, global),
    }
}
