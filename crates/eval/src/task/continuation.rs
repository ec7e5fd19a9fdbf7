//! The next 128 tokens of a real text: how far a compressed cache is from the model's own dense one, whatever the
//! model can or cannot do.

use super::{Content, Item, Place, Source, Task, rng, too_short};
use crate::error::EvalError;

/// Tokens that are judged.
pub const NEXT: usize = 128;

/// The task.
pub struct Continuation;

impl Task for Continuation {
    fn name(&self) -> &'static str {
        "continuation"
    }

    fn about(&self) -> &'static str {
        "distance to the dense cache on the next 128 tokens of a real text"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        if place.length < 16 {
            return Err(too_short("continuation", place, 16));
        }
        // one more than is compressed: the last token of the text is read from the compressed cache
        let mut ids = source.texts.ids(&mut rng(place, self.name()), place.length + 1 + NEXT, source.codec)?;
        let next = ids.split_off(place.length);
        Ok(Item { place, depth: None, content: Content::Continue { context: ids, next } })
    }
}
