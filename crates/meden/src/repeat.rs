//! What a press that repeats the text is told: the words that ask for it, as the model's own tokens.

use meden_engine::text::Tokenizer;
use meden_engine::{Policy, PressSpec};

use crate::progress::say;

/// Asks for the text that was just read.
const WORDS: &str = "\n\nRepeat the previous context:";

/// Give `kvzip` its instruction, where the policy names none, and say so.
pub fn instruct(policy: Option<&mut Policy>, tokenizer: Option<&Tokenizer>, quiet: bool) -> anyhow::Result<()> {
    let Some(PressSpec::Kvzip(press)) = policy.map(|policy| &mut policy.press) else { return Ok(()) };
    if !press.instruction.is_empty() {
        return Ok(());
    }
    let note = match tokenizer {
        Some(tokenizer) => {
            press.instruction = tokenizer.encode_plain(WORDS)?;
            format!(
                "note: kvzip reads the text again after {WORDS:?}; give its parameter `instruction` (token ids) for other words"
            )
        }
        None => "note: kvzip reads the text again without an instruction: these weights come without a tokenizer"
            .to_string(),
    };
    if !quiet {
        say(&note);
    }
    Ok(())
}
