//! Passkey retrieval in filler text (Mohtashami and Jaggi, arXiv 2305.16300, in our own words): five digits stand
//! somewhere in sentences that repeat, and are asked for.

use super::{Content, Item, Judge, Place, Probe, Source, Task, depth, rng, too_short, words};
use crate::error::EvalError;

/// The task.
pub struct Passkey;

impl Task for Passkey {
    fn name(&self) -> &'static str {
        "passkey"
    }

    fn about(&self) -> &'static str {
        "five digits in repeated filler, at ten depths"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let key = words::number(&mut rng, 5);
        let task = "There is one important fact hidden in a lot of text. Find it and remember it.";
        let fact = format!("The pass key is {key}. Remember it. {key} is the pass key.");
        let filler = words::FILLER.join(" ");
        let weight = |text: &str| source.codec.encode(&format!(" {text}")).map(|ids| ids.len());
        let fixed = source.codec.header(source.template)? + weight(task)? + weight(&fact)? + 4;
        let block = weight(&filler)?;
        let blocks = place.length.saturating_sub(fixed) / block;
        if blocks < 2 {
            return Err(too_short("passkey", place, fixed + 2 * block));
        }
        let before = (depth(place) * blocks as f64).round() as usize;
        let depth = before as f64 / blocks as f64;
        let fill = |count: usize| vec![filler.as_str(); count].join(" ");
        let parts = [task.to_owned(), fill(before), fact, fill(blocks - before)];
        let context = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("\n");
        let probe = Probe {
            question: "What is the pass key?".to_owned(),
            prefix: "The pass key is".to_owned(),
            answer: key,
            candidates: Vec::new(),
            judge: Judge::FirstNumber,
        };
        Ok(Item { place, depth: Some(depth), content: Content::Ask { context, probes: vec![probe] } })
    }
}
