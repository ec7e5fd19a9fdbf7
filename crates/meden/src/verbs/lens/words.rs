//! Tokens as people read and write them.

use meden_engine::text::Tokenizer;

use crate::exit::usage;
use crate::load::Opened;

/// How ids are shown.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    tokenizer: Option<&'a Tokenizer>,
}

impl<'a> Words<'a> {
    /// Words of a model; ids where it has no tokenizer.
    pub fn new(opened: &'a Opened) -> Words<'a> {
        Words { tokenizer: opened.tokenizer.as_ref() }
    }

    /// The text of a token as it is; `#id` without a tokenizer.
    pub fn raw(&self, id: u32) -> String {
        self.tokenizer.map_or_else(|| format!("#{id}"), |t| t.token_text(id))
    }

    /// A token with its blanks made visible.
    pub fn shown(&self, id: u32) -> String {
        let text = self.raw(id);
        if text.is_empty() { format!("#{id}") } else { visible(&text) }
    }

    /// The token that a flag names: `#id`, or a text, of which the first token counts. Returns a line for the user where
    /// the text has more than one.
    pub fn token(&self, flag: &str, text: &str) -> anyhow::Result<(u32, Option<String>)> {
        if let Some(id) = text.strip_prefix('#') {
            let id = id.parse().map_err(|_| usage(format!("{flag} {text}: write a token id behind #, as in #42")))?;
            return Ok((id, None));
        }
        let Some(tokenizer) = self.tokenizer else {
            return Err(usage(format!("{flag} {text}: this model has no tokenizer; give a token id, as in #42")));
        };
        let ids = tokenizer.encode_plain(text)?;
        let Some(&id) = ids.first() else {
            return Err(usage(format!("{flag}: an empty text has no token")));
        };
        let spaced = tokenizer.encode_plain(&format!(" {text}"))?;
        let mut note = None;
        if ids.len() > 1 {
            note = Some(format!("{flag} `{text}` is {} tokens: the first, `{}`, counts", ids.len(), self.shown(id)));
        } else if !text.starts_with(' ') && spaced.len() == 1 && spaced[0] != id {
            note = Some(format!(
                "{flag} `{text}` is token {id}; behind a blank, as inside a text, it is another, {}: write ` {text}` for it",
                spaced[0]
            ));
        }
        Ok((id, note))
    }
}

/// Blanks and line breaks as signs.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            ' ' => '·',
            '\n' => '⏎',
            '\t' => '→',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_seen_and_control_characters_do_nothing() {
        assert_eq!(visible(" a\n\t\u{1b}b"), "·a⏎→\u{fffd}b");
    }
}
