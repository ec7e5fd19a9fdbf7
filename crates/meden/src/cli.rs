//! The command line as a whole: global flags and the list of verbs. Each verb's own flags stand in its own file.

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::Exit;
use crate::verbs::{
    audit, bench, chat, completions, demo, eval, inspect, kv, lens, man, probe, pull, quantize, run, sae, steer,
    tokenize, vision,
};

const ABOUT: &str = "Language models in bounded memory, on the CPU.";

const EXAMPLES: &str = "Two things to try:
  meden demo
      reads a long document with a full and with a small cache, and compares them
  meden run --prompt \"Why is the sky blue?\" --kv-budget 512
      answers, with a cache that never grows past 512 tokens a layer

`meden help VERB` explains a verb and its flags.";

/// The whole command line.
#[derive(Parser)]
#[command(name = "meden", version, about = ABOUT, after_help = EXAMPLES, after_long_help = long_help())]
#[command(arg_required_else_help = true, disable_help_subcommand = false, max_term_width = 100)]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Global {
    /// Print exactly one JSON object on standard output instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, no statistics: only what was asked for, and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Read a long document with a full and with a small cache, and compare memory, speed and answer
    Demo(demo::Args),
    /// Answer one prompt
    Run(run::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Show how a text is cut into tokens
    Tokenize(tokenize::Args),
    /// Say what is in a model file
    Inspect(inspect::Args),
    /// Fetch a model
    Pull(pull::Args),
    /// Write a model in a smaller weight format
    Quantize(quantize::Args),
    /// Judge a model or a press
    #[command(subcommand)]
    Eval(eval::Verb),
    /// Find, count and correct faulty items of multiple-choice benchmarks
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Plan, measure, see and choose the compression of the cache
    #[command(subcommand)]
    Kv(kv::Verb),
    /// Run and judge image models
    #[command(subcommand)]
    Vision(vision::Verb),
    /// Look inside a model: capture, logit lens, attribution, patching, ablation
    #[command(subcommand)]
    Lens(lens::Verb),
    /// Train, judge and ask probes: what a direction in the activations tells
    #[command(subcommand)]
    Probe(probe::Verb),
    /// Train, check and read sparse autoencoders
    #[command(subcommand)]
    Sae(sae::Verb),
    /// Make a model answer from the text it is given, or from what it has learnt
    #[command(subcommand)]
    Steer(steer::Verb),
    /// Measure prefill and decode speed and memory, and what the machine could do
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", Exit::TABLE)
}

/// The command line as data, for completions and the manual.
pub fn command() -> clap::Command {
    Cli::command()
}
