//! `meden man`: the manual page, for `man -l`.

use clap_mangen::Man;

use crate::cli::{self, Global};
use crate::exit::Exit;
use crate::output;

/// Print the manual page of the program, or of one verb, in roff: meden man | man -l -
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A verb; without one, the page of the whole program
    #[arg(value_name = "VERB")]
    verb: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let mut command = cli::command();
    command.build();
    if let Some(verb) = &args.verb {
        let found = command.find_subcommand(verb).cloned();
        let known = || command.get_subcommands().map(|c| c.get_name()).collect::<Vec<_>>().join(", ");
        let found = found
            .ok_or_else(|| crate::exit::usage(format!("man {verb}: there is no such verb; verbs are {}", known())))?;
        command = found.name(format!("meden-{verb}"));
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    let page = String::from_utf8_lossy(&page);
    if global.json {
        output::object(&serde_json::json!({ "page": page }))?;
    } else {
        output::text(&page)?;
    }
    Ok(Exit::Ok)
}
