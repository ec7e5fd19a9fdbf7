//! What a press that repeats the text is told: the words that ask for it, as the model's own tokens.

use meden_engine::text::Tokenizer;
use meden_engine::{Policy, PressSpec};

use crate::progress::say;

/// Asks for the text that was just read.
const WORDS: &str = "\n\nRepeat the previous context:";

/// Give every `kvzip` that names no instruction the usual one, and say so.
pub fn instruct<'p>(
    presses: impl IntoIterator<Item = &'p mut PressSpec>,
    tokenizer: Option<&Tokenizer>,
    quiet: bool,
) -> anyhow::Result<()> {
    let mut note = None;
    for press in presses {
        let PressSpec::Kvzip(press) = press else { continue };
        if !press.instruction.is_empty() {
            continue;
        }
        note = Some(match tokenizer {
            Some(tokenizer) => {
                press.instruction = tokenizer.encode_plain(WORDS)?;
                format!(
                    "note: kvzip reads the text again after {WORDS:?}; give its parameter `instruction` (token ids) for other words"
                )
            }
            None => "note: kvzip reads the text again without an instruction: these weights come without a tokenizer"
                .to_string(),
        });
    }
    if let Some(note) = note.filter(|_| !quiet) {
        say(&note);
    }
    Ok(())
}

/// The press of a policy, if there is one.
pub fn press_of(policy: &mut Option<Policy>) -> Option<&mut PressSpec> {
    policy.as_mut().map(|policy| &mut policy.press)
}
