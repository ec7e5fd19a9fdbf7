//! A needle in real text: one sentence that has nothing to do with the rest, between two sentences of a book, at ten
//! depths. A number is a few tokens of one kind; a uuid is many that all have to survive.

use super::{Content, Item, Judge, Place, Probe, Source, Task, depth, rng, too_short, words};
use crate::error::EvalError;

/// The task.
pub struct Needle {
    /// The needle is a uuid, not a number.
    pub uuid: bool,
}

impl Task for Needle {
    fn name(&self) -> &'static str {
        if self.uuid { "needle_uuid" } else { "needle_number" }
    }

    fn about(&self) -> &'static str {
        if self.uuid { "a uuid in real text, at ten depths" } else { "a number in real text, at ten depths" }
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        let mut rng = rng(place, self.name());
        let owner = words::pick(&mut rng, &words::NOUNS);
        let kind = if self.uuid { "identifier" } else { "number" };
        let value = if self.uuid { words::uuid(&mut rng) } else { words::number(&mut rng, 7) };
        let fact = format!("The special magic {kind} for {owner} is: {value}.");
        let fixed = source.codec.header(source.template)? + source.codec.encode(&format!(" {fact} "))?.len() + 2;
        let room = place.length.saturating_sub(fixed);
        if room < 64 {
            return Err(too_short("needle", place, fixed + 64));
        }
        let sentences = source.texts.passage(&mut rng, room, source.codec)?;
        let depth = depth(place);
        let at = (depth * sentences.len() as f64).round() as usize;
        let (before, after) = sentences.split_at(at.min(sentences.len()));
        let context = format!("{}{fact} {}", before.concat(), after.concat());
        let probe = Probe {
            question: format!("What is the special magic {kind} for {owner}?"),
            prefix: format!("The special magic {kind} for {owner} is:"),
            answer: value,
            candidates: Vec::new(),
            judge: if self.uuid { Judge::Contains } else { Judge::FirstNumber },
        };
        Ok(Item { place, depth: Some(depth), content: Content::Ask { context, probes: vec![probe] } })
    }
}
