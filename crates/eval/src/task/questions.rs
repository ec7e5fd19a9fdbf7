//! Several questions on one document that is compressed once: four facts stand in real text, and each is asked for
//! from the same compressed cache. A press that keeps what its last tokens looked at has one guess for all of them.

use super::{Content, Item, Judge, Place, Probe, Source, Task, rng, too_short, words};
use crate::error::EvalError;

/// Facts, and so questions.
const FACTS: usize = 4;

/// The task.
pub struct Questions;

impl Task for Questions {
    fn name(&self) -> &'static str {
        "questions"
    }

    fn about(&self) -> &'static str {
        "four questions on one document, compressed once"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let owners = words::different(&mut rng, FACTS);
        let values: Vec<String> = owners.iter().map(|_| words::number(&mut rng, 5)).collect();
        let facts: Vec<String> =
            owners.iter().zip(&values).map(|(o, v)| format!("The code of the {o} is {v}. ")).collect();
        let mut fixed = source.codec.header(source.template)? + 2;
        for fact in &facts {
            fixed += source.codec.encode(&format!(" {fact}"))?.len();
        }
        let room = place.length.saturating_sub(fixed);
        if room < 64 {
            return Err(too_short("questions", place, fixed + 64 + 4 * FACTS));
        }
        let sentences = source.texts.passage(&mut rng, room, source.codec)?;
        let mut context = String::new();
        for (number, sentence) in sentences.iter().enumerate() {
            for (fact, text) in facts.iter().enumerate() {
                // spread evenly, none before the first sentence
                if number == (fact + 1) * sentences.len() / (FACTS + 1) {
                    context.push_str(text);
                }
            }
            context.push_str(sentence);
        }
        let probe = |(owner, value): (&&str, &String)| Probe {
            question: format!("What is the code of the {owner}?"),
            prefix: format!("The code of the {owner} is"),
            answer: value.clone(),
            candidates: values.iter().filter(|v| *v != value).cloned().collect(),
            judge: Judge::FirstNumber,
        };
        let probes = owners.iter().zip(&values).map(probe).collect();
        Ok(Item { place, depth: None, content: Content::Ask { context, probes } })
    }
}
