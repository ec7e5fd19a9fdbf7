//! Cutting special tokens out of a text before it is merged.
//!
//! Two sets: where a prompt is encoded, control and user-defined tokens are both cut out; in plain text only
//! user-defined ones are, because a user who types "<|im_end|>" must not be able to end a turn. At one place the
//! longest token wins.

use aho_corasick::{AhoCorasick, MatchKind};

use super::super::error::TextError;
use super::vocab::{Kind, Vocab};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A token that was written out.
    Token(u32),
    /// Ordinary text, never empty, and where it starts in the whole.
    Text(&'a str, usize),
}

/// Finds tokens by their spelling.
#[derive(Clone, Debug)]
struct Finder {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
    strip_right: Vec<bool>,
}

/// Cuts texts at special tokens.
#[derive(Clone, Debug)]
pub(super) struct Specials {
    all: Finder,
    plain: Finder,
}

impl Specials {
    /// Of a vocabulary's control and user-defined tokens. `strip_right` says which tokens swallow the white space
    /// after them.
    pub(super) fn new(vocab: &Vocab, strip_right: impl Fn(u32) -> bool, place: &str) -> Result<Specials, TextError> {
        let user: Vec<u32> = vocab.ids_of(Kind::UserDefined).collect();
        let rest = [Kind::Control, Kind::Unknown].into_iter().flat_map(|kind| vocab.ids_of(kind));
        let all = user.iter().copied().chain(rest).collect();
        Ok(Specials {
            all: Finder::new(vocab, all, &strip_right, place)?,
            plain: Finder::new(vocab, user, &strip_right, place)?,
        })
    }

    /// The parts of a text, in order; `control` says whether control tokens are parsed.
    pub(super) fn split<'a>(&self, text: &'a str, control: bool) -> Vec<Part<'a>> {
        if control { self.all.split(text) } else { self.plain.split(text) }
    }
}

impl Finder {
    fn new(
        vocab: &Vocab,
        mut ids: Vec<u32>,
        strip_right: impl Fn(u32) -> bool,
        place: &str,
    ) -> Result<Finder, TextError> {
        ids.retain(|&id| !vocab.get(id).is_empty());
        let strip_right = ids.iter().map(|&id| strip_right(id)).collect();
        if ids.is_empty() {
            return Ok(Finder { automaton: None, ids, strip_right });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|&id| vocab.get(id)))
            .map_err(|e| TextError::vocabulary(place, format!("{} special tokens: {e}", ids.len())))?;
        Ok(Finder { automaton: Some(automaton), ids, strip_right })
    }

    fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut done = 0;
        let found = self.automaton.iter().flat_map(|a| a.find_iter(text));
        for token in found {
            // A token's right neighbour may lie in the white space that it swallowed.
            if token.start() < done {
                continue;
            }
            if done < token.start() {
                parts.push(Part::Text(&text[done..token.start()], done));
            }
            let which = token.pattern().as_usize();
            parts.push(Part::Token(self.ids[which]));
            done = token.end();
            if self.strip_right[which] {
                done = text.len() - text[done..].trim_start().len();
            }
        }
        if done < text.len() {
            parts.push(Part::Text(&text[done..], done));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_wins_and_control_tokens_are_text_in_plain_text() {
        let mut vocab = Vocab::with_capacity(5);
        let tokens: &[(&str, Kind)] = &[
            ("<s>", Kind::Control),
            ("<s>>", Kind::Control),
            ("\n", Kind::UserDefined),
            ("\n\n", Kind::UserDefined),
            ("", Kind::Control),
        ];
        for (text, kind) in tokens {
            assert!(vocab.push(text.as_bytes(), *kind));
        }
        vocab.index();
        let specials = Specials::new(&vocab, |id| id == 0, "test").unwrap();
        let text = "<s> \n a<s>>\n\n\nb";
        assert_eq!(
            specials.split(text, true),
            [Part::Token(0), Part::Text("a", 6), Part::Token(1), Part::Token(3), Part::Token(2), Part::Text("b", 14),]
        );
        assert_eq!(specials.split("<s>\na", false), [Part::Text("<s>", 0), Part::Token(2), Part::Text("a", 4)]);
        assert_eq!(specials.split("", true), []);
    }
}
