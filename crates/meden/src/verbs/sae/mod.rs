//! `meden sae`: sparse autoencoders: text to train on, training, checking, reading.

mod check;
mod corpus;
mod encode;
mod place;
mod top;
mod train;

pub use place::sequences;
pub use train::write_json;

use crate::cli::Global;
use crate::exit::Exit;

/// What is done with an autoencoder.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Gather text to train on, from packages and from files of your own
    Corpus(corpus::Args),
    /// Train an autoencoder on what a model computes while it reads a corpus
    Train(train::Args),
    /// Say how well an autoencoder fits a model, and whether it was read as it was meant
    Check(check::Args),
    /// Show which latents a text activates
    Encode(encode::Args),
    /// Make a page of what some latents fire on
    Top(top::Args),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Corpus(args) => corpus::run(&args, global),
        Verb::Train(args) => train::run(&args, global),
        Verb::Check(args) => check::run(&args, global),
        Verb::Encode(args) => encode::run(&args, global),
        Verb::Top(args) => top::run(&args, global),
    }
}
