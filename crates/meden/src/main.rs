//! The program `meden`: the command line is read, one verb runs, errors become one line and an exit code.
//!
//! Terminals, standard streams, signals and exit codes are known here and nowhere below.

mod args;
mod child;
mod cli;
mod exit;
mod generate;
mod load;
mod output;
mod progress;
mod prompt;
mod repeat;
mod shown;
mod signals;
mod summary;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Verb};
use exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    signals::install();
    let json = cli.global.json;
    match dispatch(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if exit::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let (exit, message) = (exit::of(&error), exit::one_line(&error));
            progress::say(&format!("meden: {message}"));
            if json {
                output::json_error(exit, &message);
            }
            ExitCode::from(exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let global = cli.global;
    match cli.verb {
        Verb::Demo(args) => verbs::demo::run(args, global),
        Verb::Run(args) => verbs::run::run(args, global),
        Verb::Chat(args) => verbs::chat::run(args, global),
        Verb::Tokenize(args) => verbs::tokenize::run(args, global),
        Verb::Inspect(args) => verbs::inspect::run(args, global),
        Verb::Pull(args) => verbs::pull::run(args, global),
        Verb::Quantize(args) => verbs::quantize::run(args, global),
        Verb::Eval(verb) => verbs::eval::run(verb, global),
        Verb::Audit(verb) => verbs::audit::run(verb, global),
        Verb::Kv(verb) => verbs::kv::run(verb, global),
        Verb::Vision(verb) => verbs::vision::run(verb, global),
        Verb::Lens(verb) => verbs::lens::run(verb, global),
        Verb::Probe(verb) => verbs::probe::run(verb, global),
        Verb::Sae(verb) => verbs::sae::run(verb, global),
        Verb::Steer(verb) => verbs::steer::run(verb, global),
        Verb::Bench(args) => verbs::bench::run(args, global),
        Verb::Completions(args) => verbs::completions::run(args, global),
        Verb::Man(args) => verbs::man::run(args, global),
    }
}

/// Help and version go to standard output with code 0; everything else is one line on standard error.
fn not_understood(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone away is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(Exit::Usage as u8)
        }
        _ => {
            let given = || std::env::args_os().map(|a| a.to_string_lossy().into_owned());
            let message = usage_line(&error.to_string(), verb_of(given()).as_deref());
            progress::say(&format!("meden: {message}"));
            if given().any(|a| a == "--json") {
                output::json_error(Exit::Usage, &message);
            }
            ExitCode::from(Exit::Usage as u8)
        }
    }
}

/// clap writes a paragraph with the usage and a pointer to the help; what is wrong, and its tip, fit on one line.
fn usage_line(text: &str, verb: Option<&str>) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let before_usage = text.split("\n\nUsage:").next().unwrap_or(text);
    let said = before_usage.split("\n\nFor more information").next().unwrap_or(before_usage);
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    let help = verb.map(|v| format!("meden {v}")).unwrap_or_else(|| "meden".to_owned());
    format!("{line}; see `{help} --help`")
}

/// The verb on a command line that was not understood.
fn verb_of(arguments: impl Iterator<Item = String>) -> Option<String> {
    let command = cli::command();
    arguments.skip(1).find(|a| command.find_subcommand(a).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_told_on_one_line_with_the_tip() {
        let given = ["meden", "run", "--pormpt", "x"];
        let Err(error) = Cli::try_parse_from(given) else {
            panic!("a flag that does not exist was taken");
        };
        let verb = verb_of(given.iter().map(|a| a.to_string()));
        let line = usage_line(&error.to_string(), verb.as_deref());
        assert!(!line.contains('\n') && line.contains("--pormpt") && line.contains("--prompt"), "{line}");
        assert!(line.ends_with("see `meden run --help`"), "{line}");
    }
}
