//! A list of keys and values with nothing between them, one of which is asked for: a haystack made of needles. A
//! press that does not know the question has nothing to tell the right pair by.

use super::{Content, Item, Judge, Place, Probe, Source, Task, rng, too_short, words};
use crate::error::EvalError;

/// Fewest pairs that make a list.
const FEWEST: usize = 4;

/// The task.
pub struct KeyValue;

impl Task for KeyValue {
    fn name(&self) -> &'static str {
        "key_value"
    }

    fn about(&self) -> &'static str {
        "one value of a list of keys and values, as many as fit"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let intro = "Each of these words has a number.";
        let weight = |text: &str| source.codec.encode(text).map(|ids| ids.len());
        let fixed = source.codec.header(source.template)? + weight(intro)? + 4;
        let mut left = place.length.saturating_sub(fixed);
        let keys = words::different(&mut rng, words::NOUNS.len());
        let mut pairs: Vec<(&str, String)> = Vec::new();
        for key in keys {
            let mut value = words::number(&mut rng, 4);
            while pairs.iter().any(|(_, v)| *v == value) {
                value = words::number(&mut rng, 4);
            }
            let taken = weight(&format!("\n{key}: {value}"))?;
            if taken > left {
                break;
            }
            left -= taken;
            pairs.push((key, value));
        }
        if pairs.len() < FEWEST {
            return Err(too_short("key_value", place, fixed + FEWEST * 16));
        }
        let asked = rng.below(pairs.len() as u64) as usize;
        let list: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let (key, answer) = pairs[asked].clone();
        let probe = Probe {
            question: format!("What is the number of {key}?"),
            prefix: format!("{key}:"),
            answer,
            candidates: pairs.iter().filter(|p| p.0 != key).map(|p| p.1.clone()).collect(),
            judge: Judge::FirstNumber,
        };
        let depth = asked as f64 / (pairs.len() - 1) as f64;
        let context = format!("{intro}\n{}", list.join("\n"));
        Ok(Item { place, depth: Some(depth), content: Content::Ask { context, probes: vec![probe] } })
    }
}
