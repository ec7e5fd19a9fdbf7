//! `meden completions`: a completion script for a shell.

use clap_complete::Shell;

use crate::cli::{self, Global};
use crate::exit::Exit;
use crate::output;

/// Print a completion script, as in: meden completions bash > ~/.local/share/bash-completion/completions/meden
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "meden", &mut script);
    let script = String::from_utf8_lossy(&script);
    if global.json {
        output::object(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }))?;
    } else {
        output::text(&script)?;
    }
    Ok(Exit::Ok)
}
