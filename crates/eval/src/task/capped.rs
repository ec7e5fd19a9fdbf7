//! Language modelling with a cache that is never larger than its cap, as in arXiv 2406.11430: the text is read once,
//! and whenever a layer has grown beyond the cap it is pressed.

use super::{Content, Item, Place, Source, Task, rng, too_short};
use crate::error::EvalError;

/// The task.
pub struct Capped;

impl Task for Capped {
    fn name(&self) -> &'static str {
        "capped"
    }

    fn about(&self) -> &'static str {
        "loss on a real text read with a capped cache; the cap is the kept share of the length"
    }

    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError> {
        if place.length < 64 {
            return Err(too_short("capped", place, 64));
        }
        let ids = source.texts.ids(&mut rng(place, self.name()), place.length, source.codec)?;
        Ok(Item { place, depth: None, content: Content::Capped { ids } })
    }
}
