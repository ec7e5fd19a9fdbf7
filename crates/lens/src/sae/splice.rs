//! A model that runs on reconstructions, and how much of its ability that leaves.

use meden_engine::{Control, EngineError, Hook, LogitRows, Session, Site, SiteVisit};
use serde::Serialize;

use super::Sae;
use super::error::SaeError;
use crate::companions::reborrow;
use crate::place::Place;

/// What takes the place of activations.
#[derive(Clone, Copy, Debug)]
pub enum Replace<'a> {
    /// Their reconstruction.
    Reconstruction(&'a Sae),
    /// Zeros.
    Zero,
    /// One row for all.
    Row(&'a [f32]),
}

/// Puts something else in the place of a site's activations, except for the first tokens, whose rows are of another
/// kind (attention sinks) that autoencoders are not trained on.
pub struct Splice<'a> {
    place: Place,
    replace: Replace<'a>,
    /// Positions below this are left alone.
    first: u32,
}

impl<'a> Splice<'a> {
    /// Replaces the rows of a place from position `first` on.
    pub fn new(place: Place, replace: Replace<'a>, first: u32) -> Splice<'a> {
        Splice { place, replace, first }
    }
}

impl Hook for Splice<'_> {
    fn name(&self) -> &str {
        "splice"
    }

    fn wants(&self, site: Site, layer: usize) -> bool {
        self.place == Place::new(site, layer)
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        let from = visit.positions.partition_point(|p| *p < self.first);
        let rows = &mut visit.rows[from * visit.width..];
        let refuse = |why: String| EngineError::Hook { hook: "splice".into(), why };
        match self.replace {
            Replace::Zero => rows.fill(0.0),
            Replace::Row(row) if row.len() == visit.width => {
                rows.chunks_exact_mut(visit.width).for_each(|r| r.copy_from_slice(row));
            }
            Replace::Row(row) => {
                return Err(refuse(format!("the row has {} values, the site {}", row.len(), visit.width)));
            }
            Replace::Reconstruction(sae) => {
                let made = sae.reconstruct(rows).map_err(|e| refuse(e.to_string()))?;
                if made.len() != rows.len() {
                    return Err(refuse("the autoencoder writes another site than it reads".into()));
                }
                rows.copy_from_slice(&made);
            }
        }
        Ok(())
    }
}

/// Losses of a model on some text, in nats a token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovered {
    /// Tokens judged.
    pub tokens: usize,
    /// As it is.
    pub clean: f64,
    /// On reconstructions.
    pub spliced: f64,
    /// With zeros instead.
    pub zero: f64,
    /// `(zero - spliced) / (zero - clean)`: 1 is nothing lost.
    pub recovered: f64,
    /// Mean divergence KL(clean || spliced) of the next token, nats.
    pub kl: f64,
    /// `1 - KL(clean || spliced) / KL(clean || zero)`.
    pub kl_score: f64,
}

/// Runs sequences as they are, on reconstructions and on zeros at a place; each is read by itself behind `session`,
/// which stays as it is. The first position is left alone, as in [`Splice`].
///
/// # Errors
/// What the engine refuses; cancellation.
pub fn recovered(
    session: &Session,
    sequences: &[Vec<u32>],
    (sae, place): (&Sae, Place),
    control: &mut Control<'_>,
) -> Result<Recovered, SaeError> {
    let mut sums = [0f64; 3];
    let mut divergence = [0f64; 2];
    let mut tokens = 0;
    let vocab = session.model().config().vocab;
    let total = 3 * sequences.iter().map(Vec::len).sum::<usize>();
    let mut done = 0;
    for ids in sequences.iter().filter(|ids| ids.len() > 1) {
        let mut clean: Vec<f32> = Vec::with_capacity(ids.len() * vocab);
        for (run, replace) in [None, Some(Replace::Reconstruction(sae)), Some(Replace::Zero)].into_iter().enumerate() {
            let mut splice = replace.map(|replace| Splice::new(place, replace, 1));
            let mut inner = reborrow(control);
            inner.progress = None;
            if let Some(splice) = &mut splice {
                inner.hooks.push(splice);
            }
            let mut fork = session.fork()?;
            let judged = ids.len() - 1;
            fork.score(&ids[..judged], LogitRows::All, &mut inner, &mut |at, logits| {
                let row = log_probabilities(logits);
                sums[run] -= f64::from(row[ids[at + 1] as usize]);
                match run {
                    0 => clean.extend_from_slice(&row),
                    // the first position is the same in all of them
                    _ => divergence[run - 1] += kl(&clean[at * vocab..][..vocab], &row),
                }
                Ok(())
            })?;
            if run == 0 {
                tokens += judged;
            }
            done += ids.len();
            if let Some(progress) = control.progress.as_mut() {
                progress(done, total);
            }
        }
    }
    let n = tokens.max(1) as f64;
    let [clean, spliced, zero] = sums.map(|sum| sum / n);
    let [kl, kl_zero] = divergence.map(|sum| sum / n);
    let recovered = (zero - spliced) / (zero - clean);
    Ok(Recovered { tokens, clean, spliced, zero, recovered, kl, kl_score: 1.0 - kl / kl_zero })
}

fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let shift = largest + sum.ln() as f32;
    logits.iter().map(|x| x - shift).collect()
}

fn kl(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * f64::from(p - q)).sum()
}
