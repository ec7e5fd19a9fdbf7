//! What begins with a slash.

use meden_engine::{Budget, Policy, PressSpec, Schedule};

/// The text of /help.
pub const HELP: &str = "\
/save FILE              write the conversation with its cache
/load FILE              go on with one that was written
/press                  show how the cache is kept small
/press PRESS BUDGET [WHEN]
                        keep it small from now on, as in /press knorm 512; reads the conversation again
/press off              keep everything; reads the conversation again
/stats                  cache and memory
/reset                  start a new conversation
/quit                   end (also Ctrl-D); Ctrl-C stops an answer
";

/// A command.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Cache and memory.
    Stats,
    /// Write the conversation to a file.
    Save(String),
    /// Read one from a file.
    Load(String),
    /// Show (`None`) or change the press.
    Press(Option<PressChange>),
    /// Forget everything.
    Reset,
    /// End.
    Quit,
}

/// What /press asks for.
#[derive(Debug, PartialEq)]
pub enum PressChange {
    /// No press.
    Off,
    /// This policy.
    On(Box<Policy>),
}

impl PressChange {
    /// The policy, `None` for off.
    pub fn policy(&self) -> Option<Policy> {
        match self {
            PressChange::Off => None,
            PressChange::On(policy) => Some((**policy).clone()),
        }
    }
}

impl Command {
    /// The command in a line; `None` for a line that is no command, an error for one that is wrong.
    pub fn parse(line: &str) -> Option<Result<Command, String>> {
        let rest = line.strip_prefix('/')?;
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        let file = |make: fn(String) -> Command| {
            if argument.is_empty() {
                return Err(format!("/{name}: which file? write /{name} FILE"));
            }
            Ok(make(argument.to_owned()))
        };
        let alone = |command: Command| {
            if argument.is_empty() { Ok(command) } else { Err(format!("/{name}: it takes no argument")) }
        };
        Some(match name {
            "help" | "?" => alone(Command::Help),
            "stats" => alone(Command::Stats),
            "reset" | "clear" => alone(Command::Reset),
            "quit" | "exit" => alone(Command::Quit),
            "save" => file(Command::Save),
            "load" => file(Command::Load),
            "press" => press(argument).map(Command::Press),
            _ => Err(format!("/{name}: there is no such command; /help lists them")),
        })
    }
}

fn press(argument: &str) -> Result<Option<PressChange>, String> {
    let words: Vec<&str> = argument.split_whitespace().collect();
    let policy = |press: &str, budget: &str| -> Result<Policy, String> {
        let press: PressSpec = press.parse().map_err(|e| format!("/press: {e}"))?;
        let budget: Budget = budget.parse().map_err(|e| format!("/press: {e}"))?;
        Ok(Policy::new(press, budget))
    };
    match words.as_slice() {
        [] => Ok(None),
        ["off"] => Ok(Some(PressChange::Off)),
        [name, budget] => Ok(Some(PressChange::On(Box::new(policy(name, budget)?)))),
        [name, budget, when] => {
            let mut policy = policy(name, budget)?;
            policy.schedule = when.parse::<Schedule>().map_err(|e| format!("/press: {e}"))?;
            Ok(Some(PressChange::On(Box::new(policy))))
        }
        _ => Err("/press: write a press and a budget, as in /press knorm 512, or /press off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_lines_are_no_commands() {
        assert_eq!(Command::parse("hello /help"), None);
        assert_eq!(Command::parse(""), None);
    }

    #[test]
    fn commands_and_their_arguments() {
        assert_eq!(Command::parse("/help"), Some(Ok(Command::Help)));
        assert_eq!(Command::parse("/save  my chat.bin "), Some(Ok(Command::Save("my chat.bin".into()))));
        assert_eq!(Command::parse("/press"), Some(Ok(Command::Press(None))));
        assert_eq!(Command::parse("/press off"), Some(Ok(Command::Press(Some(PressChange::Off)))));
        let Some(Ok(Command::Press(Some(PressChange::On(policy))))) = Command::parse("/press knorm 25% decode_every:8")
        else {
            panic!("a press with budget and schedule was not understood");
        };
        assert_eq!(policy.budget, Budget::Ratio(0.25));
        assert_eq!(policy.schedule.to_string(), "decode_every:8");
        for wrong in ["/save", "/nonsense", "/press knorm", "/press nonsense 5", "/press a b c d", "/stats x"] {
            assert!(matches!(Command::parse(wrong), Some(Err(_))), "{wrong}");
        }
    }
}
