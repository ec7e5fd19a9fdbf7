//! A needle in real text: one sentence that has nothing to do with the rest, between two sentences of a book, at ten
//! depths. A number is a few tokens of one kind; a uuid is many that all have to survive.

use super::{Content, Item, Judge, Place, Probe, Source, Task, depth, rng, too_short, words};
use crate::error::EvalError;

/// The border between sentences that is nearest to a share of the text.
fn border(sentences: &[&str], share: f64) -> usize {
    let wanted = share * sentences.iter().map(|s| s.len()).sum::<usize>() as f64;
    let mut ends = vec![0usize];
    for sentence in sentences {
        ends.push(ends[ends.len() - 1] + sentence.len());
    }
    let far = |border: &usize| (ends[*border] as f64 - wanted).abs();
    (0..ends.len()).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0)
}

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
            return Err(too_short(self.name(), place, fixed + 64 + 16));
        }
        let sentences = source.texts.passage(&mut rng, room, source.codec)?;
        let at = border(&sentences, depth(place));
        let (before, after) = sentences.split_at(at);
        let (before, after) = (before.concat(), after.concat());
        let depth = before.len() as f64 / (before.len() + after.len()).max(1) as f64;
        let context = format!("{before}{fact} {after}");
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
