//! Where messages come from: a terminal with line editing and a history, or a pipe.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use meden_files::source::ResolveOptions;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::exit::{Exit, failure};
use crate::progress::say;

/// Lines kept in the history.
const HISTORY: usize = 500;

/// What the user did.
pub enum Line {
    /// Said something.
    Text(String),
    /// An empty line, or Ctrl-C at the prompt.
    Nothing,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// A source of lines.
pub enum Input {
    /// A terminal.
    Terminal(Box<Terminal>),
    /// Anything else.
    Pipe,
}

/// The line editor and its history file.
pub struct Terminal {
    editor: DefaultEditor,
    history: PathBuf,
}

impl Input {
    /// The terminal if standard input is one, else the pipe.
    pub fn new(quiet: bool) -> Input {
        if !std::io::stdin().is_terminal() {
            return Input::Pipe;
        }
        let config = rustyline::Config::builder().max_history_size(HISTORY).map(|c| c.auto_add_history(true).build());
        match config.and_then(DefaultEditor::with_config) {
            Ok(mut editor) => {
                let history = ResolveOptions::from_env().cache.join("chat_history");
                // The first chat has no history yet.
                let _ = editor.load_history(&history);
                Input::Terminal(Box::new(Terminal { editor, history }))
            }
            Err(error) => {
                if !quiet {
                    say(&format!("note: no line editing here: {error}"));
                }
                Input::Pipe
            }
        }
    }

    /// Whether someone is typing.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next line, without spaces around it.
    pub fn next(&mut self) -> anyhow::Result<Line> {
        let line = match self {
            Input::Terminal(terminal) => match terminal.editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => return Ok(Line::Nothing),
                Err(ReadlineError::Eof) => return Ok(Line::End),
                Err(error) => return Err(failure(Exit::Other, format!("the terminal cannot be read: {error}"))),
            },
            Input::Pipe => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                let read = read.map_err(|e| failure(Exit::BadFile, format!("standard input: cannot read it: {e}")))?;
                if read == 0 {
                    return Ok(Line::End);
                }
                line
            }
        };
        let line = line.trim();
        Ok(if line.is_empty() { Line::Nothing } else { Line::Text(line.to_owned()) })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(folder) = self.history.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        // A history that cannot be written is a pity, not a failure.
        let _ = self.editor.save_history(&self.history);
    }
}
