//! Keeping the words of users and documents from being read as a prompt's structure.
//!
//! A chat template writes special tokens and messages into one text, and only then is the text cut at special tokens.
//! A message that holds "<|im_end|>" would so end its own turn. The shield breaks such a spelling inside a message
//! with one character that occurs in no message; encoding takes that character out again after the cut.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;

use super::error::TextError;
use super::template::{ChatTemplate, Message};
use super::tokenizer::Tokenizer;

/// Characters that Unicode keeps out of every text for interchange: one of these becomes the breaking character.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// A prompt that a template wrote, with its messages shielded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text, with [`Prompt::guard`] inside the special tokens that messages spelled out.
    pub text: String,
    /// The character to take out again.
    pub guard: char,
}

impl ChatTemplate {
    /// The prompt of a conversation in which no message can write structure. With `add_generation_prompt` it ends
    /// where the model's answer begins. [`Tokenizer::encode_prompt`] gives its ids.
    ///
    /// # Errors
    /// A role or an order of turns that the template refuses; messages that use all 32 characters of U+FDD0 to U+FDEF.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Prompt, TextError> {
        let used = |c: &char| messages.iter().any(|m| m.content.contains(*c));
        let guard = NONCHARACTERS.into_iter().find(|c| !used(c)).ok_or_else(|| TextError::Encode {
            why: "its messages use every character from U+FDD0 to U+FDEF; remove one".to_owned(),
        })?;
        let names = tokenizer.control_names();
        let shielded = messages.iter().map(|m| Message::new(m.role.as_str(), shield(names, &m.content, guard)));
        let text = self.render(&shielded.collect::<Vec<_>>(), add_generation_prompt)?;
        Ok(Prompt { text, guard })
    }
}

/// `text` with every name of a control token broken after its first character. A name of one character stays.
fn shield<'a>(names: Option<&AhoCorasick>, text: &'a str, guard: char) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    let Some(names) = names else { return text };
    // A broken name may uncover another that overlaps it, so until there is none.
    loop {
        let first = |at: usize| at + text[at..].chars().next().map_or(0, char::len_utf8);
        let cuts: Vec<usize> = names.find_iter(text.as_ref()).map(|m| first(m.start())).collect();
        if cuts.is_empty() {
            return text;
        }
        let mut out = String::with_capacity(text.len() + cuts.len() * guard.len_utf8());
        let mut done = 0;
        for cut in cuts {
            out.push_str(&text[done..cut]);
            out.push(guard);
            done = cut;
        }
        out.push_str(&text[done..]);
        text = Cow::Owned(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_names_are_all_broken_and_other_text_stays() {
        let names = AhoCorasick::new(["<|a|>", "|>b", "é€"]).unwrap();
        assert_eq!(shield(Some(&names), "x<|a|>b é€", '\u{FDD0}'), "x<\u{FDD0}|a|\u{FDD0}>b é\u{FDD0}€");
        assert!(matches!(shield(Some(&names), "plain <|b|>", '\u{FDD0}'), Cow::Borrowed(_)));
    }
}
