//! What steering does to a row of activations.
//!
//! SpARE, towards memory: latents that belong to following the context (targets `r`) are taken out, those that belong to
//! memory (targets `a`) are brought in; towards the context the other way round. With `z` the latents of the row as it
//! is:
//! - as the released code has it: `h' = h - g(min(z, s r)) + g(max(s a - z, 0))`
//! - as the paper writes it: `h' = h + s (-g(min(z, r)) + g(max(a - z, 0)))`
//!
//! `g` sums directions. The two are the same at strength 1; beyond, the paper's form takes out more than there is. What
//! the autoencoder does not reconstruct stays as it is.

use serde::{Deserialize, Serialize};

use super::select::Selected;
use super::spectral::Spectral;
use crate::sae::Chosen;

/// Which source answers are to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Toward {
    /// The text that was given.
    Context,
    /// What the model has learnt.
    Memory,
}

impl Toward {
    /// Both.
    pub const BOTH: [Toward; 2] = [Toward::Context, Toward::Memory];

    /// The name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Toward::Context => "context",
            Toward::Memory => "memory",
        }
    }

    /// +1 towards the context, -1 towards memory.
    pub fn sign(self) -> f32 {
        if self == Toward::Context { 1.0 } else { -1.0 }
    }
}

impl std::str::FromStr for Toward {
    type Err = crate::LensError;
    fn from_str(text: &str) -> Result<Toward, crate::LensError> {
        let found = Toward::BOTH.into_iter().find(|t| t.name() == text);
        found.ok_or_else(|| crate::LensError::setting("to", text, "context or memory"))
    }
}

/// How strength enters SpARE's edit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As the released code has it.
    #[default]
    Code,
    /// As the paper writes it.
    Paper,
}

/// Which part of SpARE's edit is made: the ablations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parts {
    /// Both.
    #[default]
    Both,
    /// Only what is taken out.
    Remove,
    /// Only what is brought in.
    Add,
    /// Both, without looking at the row: `h' = h + s (g(a) - g(r))`.
    Blind,
}

/// Latents of an autoencoder with a side and a target each.
#[derive(Clone, Debug)]
pub struct Latents {
    /// The latents.
    pub chosen: Chosen,
    /// Targets of those that belong to following the context; 0 for the others. One a latent.
    pub context: Vec<f32>,
    /// Targets of those that belong to memory; 0 for the others. One a latent.
    pub memory: Vec<f32>,
    /// How strength enters.
    pub mode: Mode,
    /// Which part of the edit is made.
    pub parts: Parts,
}

impl Latents {
    /// Sides and targets as they were selected; `chosen` holds the same latents in the same order.
    pub fn new(chosen: Chosen, selected: &Selected, mode: Mode, parts: Parts) -> Latents {
        let side = |context: bool| {
            let of = |c: &super::select::Chosen| if c.is_context() == context { c.target as f32 } else { 0.0 };
            selected.chosen.iter().map(of).collect::<Vec<f32>>()
        };
        Latents { chosen, context: side(true), memory: side(false), mode, parts }
    }

    /// What is added to each direction for a row with latents `z`.
    pub fn factors(&self, z: &[f32], toward: Toward, s: f32) -> Vec<f32> {
        let (remove, add) = match toward {
            Toward::Context => (&self.memory, &self.context),
            Toward::Memory => (&self.context, &self.memory),
        };
        let one = |((&z, &r), &a): ((&f32, &f32), &f32)| {
            let (out, into, after) = match self.mode {
                Mode::Code => (z.min(s * r), (s * a - z).max(0.0), 1.0),
                Mode::Paper => (z.min(r), (a - z).max(0.0), s),
            };
            // a latent without a target on a side is no part of it: max(0 - z, 0) is zero as z is not negative
            match self.parts {
                Parts::Both => after * (into - out),
                Parts::Remove => -after * out,
                Parts::Add => after * into,
                Parts::Blind => s * (a - r),
            }
        };
        z.iter().zip(remove).zip(add).map(one).collect()
    }
}

/// What is done to a row.
#[derive(Clone, Debug)]
pub enum Edit {
    /// SpARE.
    Latents(Box<Latents>),
    /// `h' = h ± s v`, plus towards the context.
    Add {
        /// The direction.
        vector: Vec<f32>,
        /// Whether the row is brought back to its length.
        keep_norm: bool,
    },
    /// The part along a unit direction is moved to that of a group, `h' = h + s (t - h·u) u`.
    Project {
        /// The direction, of length 1.
        direction: Vec<f32>,
        /// Mean of `h·u` in the group that follows the context, and in the one that follows memory.
        targets: [f32; 2],
    },
    /// `h' = (1 - s) h + s m`, with the mean row of the group: a task vector at strength 1.
    Replace {
        /// Mean of the rows that follow the context.
        context: Vec<f32>,
        /// Mean of the rows that follow memory.
        memory: Vec<f32>,
    },
    /// Spectral editing.
    Spectral(Spectral),
}

impl Edit {
    /// The name in files and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Edit::Latents(_) => "spare",
            Edit::Add { keep_norm: false, .. } => "difference_of_means",
            Edit::Add { keep_norm: true, .. } => "difference_of_means_keep_norm",
            Edit::Project { .. } => "projection",
            Edit::Replace { .. } => "task_vector",
            Edit::Spectral(Spectral { squared_exponential: false, .. }) => "sea",
            Edit::Spectral(Spectral { squared_exponential: true, .. }) => "sea_exp",
        }
    }

    /// Values of a row.
    pub fn d(&self) -> usize {
        match self {
            Edit::Latents(latents) => latents.chosen.d(),
            Edit::Add { vector, .. } => vector.len(),
            Edit::Project { direction, .. } => direction.len(),
            Edit::Replace { context, .. } => context.len(),
            Edit::Spectral(spectral) => spectral.d,
        }
    }

    /// Edits one row. At strength 0, or where there is nothing to move, not a bit changes.
    pub fn apply(&self, row: &mut [f32], toward: Toward, s: f32) {
        if s == 0.0 {
            return;
        }
        match self {
            Edit::Latents(latents) => {
                let (z, scale) = latents.chosen.encode(row);
                let factors = latents.factors(&z, toward, s);
                if factors.iter().any(|f| *f != 0.0) {
                    latents.chosen.add(&factors, scale, row);
                }
            }
            Edit::Add { vector, keep_norm } => {
                let before = norm(row);
                row.iter_mut().zip(vector).for_each(|(h, v)| *h += toward.sign() * s * v);
                let after = norm(row);
                if *keep_norm && after > 0.0 {
                    row.iter_mut().for_each(|h| *h *= before / after);
                }
            }
            Edit::Project { direction, targets } => {
                let along: f64 = row.iter().zip(direction).map(|(&h, &u)| f64::from(h) * f64::from(u)).sum();
                let target = if toward == Toward::Context { targets[0] } else { targets[1] };
                let by = s * (target - along as f32);
                row.iter_mut().zip(direction).for_each(|(h, u)| *h += by * u);
            }
            Edit::Replace { context, memory } => {
                let mean = if toward == Toward::Context { context } else { memory };
                row.iter_mut().zip(mean).for_each(|(h, m)| *h += s * (m - *h));
            }
            Edit::Spectral(spectral) => spectral.apply(row, toward, s),
        }
    }
}

/// Difference of the mean rows of two groups, `(d)`, and the means themselves: context first.
pub fn means(rows: &[f32], labels: &[bool], d: usize) -> Option<[Vec<f32>; 3]> {
    let mut sums = [vec![0f64; d], vec![0f64; d]];
    let mut counts = [0usize; 2];
    for (row, &label) in rows.chunks_exact(d).zip(labels) {
        let side = usize::from(!label);
        counts[side] += 1;
        row.iter().zip(&mut sums[side]).for_each(|(&h, s)| *s += f64::from(h));
    }
    if counts.contains(&0) {
        return None;
    }
    let mean = |side: usize| sums[side].iter().map(|s| (s / counts[side] as f64) as f32).collect::<Vec<f32>>();
    let (context, memory) = (mean(0), mean(1));
    let difference = context.iter().zip(&memory).map(|(c, m)| c - m).collect();
    Some([difference, context, memory])
}

pub(super) fn norm(row: &[f32]) -> f32 {
    row.iter().map(|&h| f64::from(h) * f64::from(h)).sum::<f64>().sqrt() as f32
}
