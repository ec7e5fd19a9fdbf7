//! `meden audit`: faulty items of multiple-choice benchmarks.

mod export;
mod reproduce;
mod scan;

use crate::cli::Global;
use crate::exit::Exit;

/// What is done.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// The numbers of MMLU-Redux from its data: labels, accuracies before and after correction, judges, detectors
    Reproduce(reproduce::Args),
    /// Look for suspicious items in a set of one's own; needs no model
    Scan(scan::Args),
    /// Write a labelled set again: only the items that are ok, or with repaired keys
    Export(export::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Reproduce(args) => reproduce::run(args, global),
        Verb::Scan(args) => scan::run(args, global),
        Verb::Export(args) => export::run(args, global),
    }
}
