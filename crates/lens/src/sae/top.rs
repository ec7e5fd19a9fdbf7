//! What a latent fires on.

use std::collections::BTreeMap;

use serde::Serialize;

use super::codes::Codes;
use crate::capture::RowOf;

/// One activation of a latent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// How strongly.
    pub value: f32,
    /// Where: number of the sequence, position and token.
    #[serde(flatten)]
    pub at: RowOf,
}

/// What one latent did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopLatent {
    /// Its number.
    pub latent: u32,
    /// Rows that activated it.
    pub fired: u64,
    /// Mean of its value where it is active.
    pub mean: f64,
    /// Its strongest moments, the strongest first; one a sequence.
    pub moments: Vec<Moment>,
}

/// Gathers the strongest moments of some latents while codes pass by.
#[derive(Clone, Debug)]
pub struct Top {
    keep: usize,
    seen: u64,
    /// By latent: times fired, sum of values, moments.
    latents: BTreeMap<u32, (u64, f64, Vec<Moment>)>,
}

impl Top {
    /// For these latents, `keep` moments each.
    pub fn new(latents: &[u32], keep: usize) -> Top {
        Top { keep, seen: 0, latents: latents.iter().map(|&l| (l, (0, 0.0, Vec::new()))).collect() }
    }

    /// Rows that have passed.
    pub fn rows(&self) -> u64 {
        self.seen
    }

    /// Takes in the codes of rows, with where each comes from.
    pub fn take(&mut self, codes: &Codes, rows: &[RowOf]) {
        self.seen += codes.len() as u64;
        for (row, &at) in rows.iter().enumerate().take(codes.len()) {
            let (latents, values) = codes.row(row);
            for (latent, &value) in latents.iter().zip(values) {
                let Some((fired, sum, moments)) = self.latents.get_mut(latent) else { continue };
                *fired += 1;
                *sum += f64::from(value);
                let new = Moment { value, at };
                // one moment a sequence: neighbours of a strong one say the same
                match moments.iter_mut().find(|m| m.at.prompt == at.prompt) {
                    Some(old) if old.value < value => *old = new,
                    Some(_) => continue,
                    None => moments.push(new),
                }
                moments.sort_by(|a, b| b.value.total_cmp(&a.value));
                moments.truncate(self.keep);
            }
        }
    }

    /// What was gathered, by latent.
    pub fn finish(self) -> Vec<TopLatent> {
        let one = |(latent, (fired, sum, moments)): (u32, (u64, f64, Vec<Moment>))| TopLatent {
            latent,
            fired,
            mean: if fired > 0 { sum / fired as f64 } else { 0.0 },
            moments,
        };
        self.latents.into_iter().map(one).collect()
    }
}

/// Tokens that a direction makes likelier and unlikelier where it is written to the stream: the `count` largest and
/// smallest values of `unembedding · direction`, with the mean over the vocabulary taken off (it changes nothing).
/// `unembed` gives logits of a row, `(vocab)`.
pub fn promoted(logits: &[f32], count: usize) -> [Vec<(u32, f32)>; 2] {
    let mean = logits.iter().map(|&x| f64::from(x)).sum::<f64>() / logits.len().max(1) as f64;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    let of = |&id: &u32| (id, (f64::from(logits[id as usize]) - mean) as f32);
    let up = order.iter().take(count).map(of).collect();
    let down = order.iter().rev().take(count).map(of).collect();
    [up, down]
}
