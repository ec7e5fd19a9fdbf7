//! A continuation, while hooks look or edit.

use meden_engine::text::{Sampler, SamplingConfig};
use meden_engine::{Control, LogitRows, Session};
use serde::Serialize;

use crate::companions::reborrow;
use crate::error::LensError;

/// Tokens to write behind a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generate {
    /// Most tokens.
    pub tokens: usize,
    /// Ids that end the text; they are not part of it.
    pub stop: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingConfig,
}

impl Generate {
    /// The likeliest token each time.
    pub fn greedy(tokens: usize) -> Generate {
        Generate { tokens, stop: Vec::new(), sampling: SamplingConfig::default() }
    }

    pub(crate) fn sampler(&self) -> Result<Sampler, LensError> {
        Sampler::new(self.sampling.clone()).map_err(sampling)
    }
}

pub(crate) fn sampling(error: meden_engine::text::TextError) -> LensError {
    LensError::setting("sampling", "settings", error.to_string())
}

/// Reads a prompt behind what `session` holds and writes on from it, with the hooks of `control` at work in both. The
/// session has read all that is returned.
///
/// # Errors
/// What the session refuses, sampling settings out of their range, a hook that never fired.
pub fn generate(
    session: &mut Session,
    ids: &[u32],
    generate: &Generate,
    control: &mut Control<'_>,
) -> Result<Vec<u32>, LensError> {
    let mut sampler = generate.sampler()?;
    let mut logits = Vec::new();
    let mut keep = |session: &mut Session, ids: &[u32], control: &mut Control<'_>| {
        session.score(ids, LogitRows::Last, control, &mut |_, row| {
            logits.clear();
            logits.extend_from_slice(row);
            Ok(())
        })?;
        sampler.sample(&logits, session.history()).map(|sampled| sampled.id).map_err(sampling)
    };
    let mut next = keep(session, ids, control)?;
    let mut written = Vec::new();
    let context = session.model().config().context;
    while written.len() < generate.tokens && !generate.stop.contains(&next) && session.next_position() < context {
        written.push(next);
        let mut quiet = reborrow(control);
        quiet.progress = None;
        next = keep(session, &[next], &mut quiet)?;
    }
    Ok(written)
}
