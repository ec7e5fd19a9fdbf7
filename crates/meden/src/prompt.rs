//! What the model is given to read: from flags, files and standard input to one text and its tokens.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::Path;

use meden_engine::text::Message;

use crate::exit::{Exit, failure, usage};
use crate::load::Opened;

/// Most bytes read from a file or from standard input: far beyond any context, well below any memory.
const LONGEST: u64 = 64 << 20;

/// A prompt as tokens.
pub struct Prompt {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The model goes on where the text ends, rather than answering it.
    pub continues: bool,
}

/// The text of a file, or of standard input for `-`.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let (name, read) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), std::io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes))
    } else {
        let name = path.display().to_string();
        (name, fs::File::open(path).and_then(|f| f.take(LONGEST + 1).read_to_end(&mut bytes)))
    };
    read.map_err(|e| failure(Exit::BadFile, format!("{name}: cannot read it: {e}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(failure(Exit::BadFile, format!("{name}: longer than the {LONGEST} bytes that are read; cut it")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        failure(Exit::BadFile, format!("{name}: not UTF-8 text (byte {at}); convert it first"))
    })
}

/// What `--prompt` and `-f` say together: the document, a blank line, the prompt. With neither, what is piped in.
pub fn gather(prompt: Option<&str>, file: Option<&Path>) -> anyhow::Result<String> {
    let document = match file {
        Some(path) => Some(read_text(path)?),
        None if prompt.is_none() => {
            if std::io::stdin().is_terminal() {
                return Err(usage("no prompt: give one with --prompt TEXT, -f FILE or on standard input"));
            }
            Some(read_text(Path::new("-"))?)
        }
        None => None,
    };
    Ok(match (document, prompt) {
        (Some(document), Some(prompt)) => format!("{}\n\n{prompt}", document.trim_end()),
        (Some(document), None) => document,
        (None, prompt) => prompt.unwrap_or_default().to_owned(),
    })
}

/// `text` as the model wants it: through its chat template, or as it is.
pub fn encode(opened: &Opened, text: &str, system: Option<&str>, raw: bool) -> anyhow::Result<Prompt> {
    if text.trim().is_empty() {
        return Err(usage("the prompt is empty: there is nothing to read"));
    }
    let tokenizer = opened.tokenizer()?;
    let (ids, continues) = match &opened.template {
        Some(template) if !raw => {
            let mut messages = Vec::new();
            messages.extend(system.map(|s| message("system", s)));
            messages.push(message("user", text));
            (tokenizer.encode_prompt(&template.prompt(tokenizer, &messages, true)?)?, false)
        }
        _ => {
            if system.is_some() {
                return Err(usage(if raw {
                    "--system: a raw prompt has no system message; leave out --raw or --system"
                } else {
                    "--system: this model has no chat template, so it knows no system message; leave it out"
                }));
            }
            (tokenizer.encode(text, true)?, true)
        }
    };
    opened.check_context("the prompt", ids.len())?;
    Ok(Prompt { ids, continues })
}

/// A message of a conversation.
pub fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}
