//! A long answer with a capped cache: `length` tokens are written after a short prompt (1,024 tokens and a removed
//! share of 75% are a cap of 256). What goes wrong in long answers is repetition, which no question at the end of a
//! prompt can show.

use super::{Content, Item, Place, Source, Task, rng, too_short, words};
use crate::error::EvalError;

/// The task.
pub struct Decode;

impl Task for Decode {
    fn name(&self) -> &'static str {
        "decode"
    }

    fn about(&self) -> &'static str {
        "repetition and distance to the dense cache in a long answer; the cap is the kept share of its length"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        if place.length < 32 {
            return Err(too_short("decode", place, 32));
        }
        let mut rng = rng(place, self.name());
        let subjects = words::different(&mut rng, 3);
        let probe = super::Probe {
            question: format!(
                "Write a long story about a {}, a {} and a {}. Tell it in many chapters.",
                subjects[0], subjects[1], subjects[2]
            ),
            prefix: String::new(),
            answer: "Once".to_owned(),
            candidates: Vec::new(),
            judge: super::Judge::Contains,
        };
        let layout = source.codec.layout("", &probe, (super::Question::Unseen, source.template))?;
        let prompt = [layout.compressed, layout.tail].concat();
        Ok(Item { place, depth: None, content: Content::Decode { prompt, tokens: place.length } })
    }
}
