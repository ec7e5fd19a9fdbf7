//! `meden vision`: image models.

mod compare;
mod embed;
mod evaluate;
mod finetune;
mod images;
mod predict;
mod replica;

use crate::cli::Global;
use crate::exit::Exit;

/// What is done with images.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Say what is on images
    Predict(predict::Args),
    /// Turn images into vectors
    Embed(embed::Args),
    /// Judge embeddings on labelled images: nearest neighbours and a linear classifier
    Evaluate(evaluate::Args),
    /// Tune a pretrained model to a folder of images
    Finetune(Box<finetune::Args>),
    /// Compare finished runs: accuracy, time, memory, multiply-adds
    Compare(compare::Args),
    /// Run the comparison of methods on a data set, from split to table, and go on where it was interrupted
    Replica(Box<replica::Args>),
}

/// Runs the verb.
pub fn run(verb: Verb, global: Global) -> anyhow::Result<Exit> {
    match verb {
        Verb::Predict(args) => predict::run(args, global),
        Verb::Embed(args) => embed::run(args, global),
        Verb::Evaluate(args) => evaluate::run(args, global),
        Verb::Finetune(args) => finetune::run(*args, global),
        Verb::Compare(args) => compare::run(args, global),
        Verb::Replica(args) => replica::run(*args, global),
    }
}
