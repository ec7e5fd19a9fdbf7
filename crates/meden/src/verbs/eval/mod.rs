//! `meden eval`: judges, one a file.

mod perplexity;

use crate::cli::Global;
use crate::exit::Exit;

/// What is judged.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// How surprised a model is by a text, with an interval
    Perplexity(perplexity::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Perplexity(args) => perplexity::run(args, global),
    }
}
