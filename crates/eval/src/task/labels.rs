//! Labels shown by examples: made-up labels for four kinds of thing, so that the examples have to be read. The
//! question is a thing that the examples do not show.

use super::{Content, Item, Judge, Place, Probe, Source, Task, rng, too_short, words};
use crate::error::EvalError;

/// Kinds of thing; the last of each list is what is asked for.
const KINDS: [[&str; 9]; 4] = [
    ["a dog", "a cow", "a horse", "a sheep", "a goat", "a fox", "a wolf", "a bear", "a cat"],
    ["red", "blue", "yellow", "orange", "purple", "brown", "black", "white", "pink"],
    ["bread", "cheese", "rice", "soup", "butter", "cake", "honey", "pasta", "salad"],
    ["Paris", "Rome", "Tokyo", "Cairo", "Oslo", "Lima", "Delhi", "Athens", "London"],
];
/// Fewest examples: two of each kind.
const FEWEST: usize = 8;

/// The task.
pub struct Labels;

impl Task for Labels {
    fn name(&self) -> &'static str {
        "labels"
    }

    fn about(&self) -> &'static str {
        "made-up labels learnt from examples"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let names = words::different(&mut rng, KINDS.len());
        let intro = "Each thing has a label.";
        let weight = |text: &str| source.codec.encode(text).map(|ids| ids.len());
        let fixed = source.codec.header(source.template)? + weight(intro)? + 4;
        let mut left = place.length.saturating_sub(fixed);
        let mut lines = Vec::new();
        loop {
            // all kinds take their turn, in another order each time
            let mut order = [0, 1, 2, 3];
            rng.shuffle(&mut order);
            let round: Vec<String> = order
                .into_iter()
                .map(|kind| {
                    let thing = KINDS[kind][rng.below(KINDS[kind].len() as u64 - 1) as usize];
                    format!("Thing: {thing}\nLabel: {}", names[kind])
                })
                .collect();
            let taken = weight(&format!("\n{}", round.join("\n")))? + 1;
            if taken > left {
                break;
            }
            left -= taken;
            lines.extend(round);
        }
        if lines.len() < FEWEST {
            let line = weight("\nThing: a horse\nLabel: orchard")? + 1;
            return Err(too_short("labels", place, fixed + FEWEST * line));
        }
        let kind = rng.below(KINDS.len() as u64) as usize;
        let probe = Probe {
            question: format!("Thing: {}", KINDS[kind][KINDS[kind].len() - 1]),
            prefix: "Label:".to_owned(),
            answer: names[kind].to_owned(),
            candidates: names.iter().filter(|n| **n != names[kind]).map(|n| (*n).to_owned()).collect(),
            judge: Judge::FirstNamed,
        };
        let context = format!("{intro}\n{}", lines.join("\n"));
        Ok(Item { place, depth: None, content: Content::Ask { context, probes: vec![probe] } })
    }
}
