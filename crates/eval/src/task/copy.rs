//! A list of words, to be repeated from the beginning: nothing may be lost, and nothing but what stood before each
//! word helps to find the next.

use super::{Content, Item, Judge, Place, Probe, Source, Task, rng, too_short, words};
use crate::error::EvalError;

/// Fewest words, and the most that are asked for (the list goes on to fill its length).
const FEWEST: usize = 16;
const ASKED: usize = 24;

/// The task.
pub struct Copy;

impl Task for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn about(&self) -> &'static str {
        "repeat a list of random words"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let intro = "Here is a list of words:";
        let weight = |text: &str| source.codec.encode(text).map(|ids| ids.len());
        let fixed = source.codec.header(source.template)? + weight(intro)? + 4;
        let mut left = place.length.saturating_sub(fixed);
        let mut list: Vec<&str> = Vec::new();
        loop {
            let word = words::pick(&mut rng, &words::NOUNS);
            let taken = weight(&format!(", {word}"))?;
            if taken > left {
                break;
            }
            left -= taken;
            list.push(word);
        }
        if list.len() < FEWEST {
            return Err(too_short("copy", place, fixed + FEWEST * (weight(", orchard")? + 1)));
        }
        let asked = list.len().min(ASKED);
        let probe = Probe {
            question: "Repeat the list of words from its beginning, word for word.".to_owned(),
            prefix: format!("Here is the list again: {},", list[0]),
            answer: list[1..asked].join(", "),
            candidates: Vec::new(),
            judge: Judge::Begins,
        };
        let context = format!("{intro} {}", list.join(", "));
        Ok(Item { place, depth: None, content: Content::Ask { context, probes: vec![probe] } })
    }
}
