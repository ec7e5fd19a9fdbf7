//! Edits of activations while a model runs, as one hook: zero, replace, add, scale, project out.
//!
//! An edit that would change nothing (scale by 1, add zeros) is skipped rather than computed, so it leaves every bit.

use std::collections::BTreeMap;

use meden_engine::{Config, EngineError, Hook, Site, SiteVisit};

use crate::error::LensError;
use crate::place::Place;

/// Rows to write, each as wide as the place.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One row for every token.
    Same(Vec<f32>),
    /// A row for some positions; other tokens are left as they are.
    At(BTreeMap<u32, Vec<f32>>),
}

impl Values {
    fn row(&self, position: u32) -> Option<&[f32]> {
        match self {
            Values::Same(row) => Some(row),
            Values::At(rows) => rows.get(&position).map(Vec::as_slice),
        }
    }

    fn rows(&self) -> impl Iterator<Item = &Vec<f32>> {
        let (same, at) = match self {
            Values::Same(row) => (Some(row), None),
            Values::At(rows) => (None, Some(rows.values())),
        };
        same.into_iter().chain(at.into_iter().flatten())
    }
}

/// What is done to a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It becomes zero.
    Zero,
    /// It is replaced.
    Replace(Values),
    /// Something is added.
    Add(Values),
    /// It is multiplied.
    Scale(f32),
    /// Its part along a direction is taken out, `h - (h·v) v / |v|²`.
    ProjectOut(Vec<f32>),
}

/// Which tokens are edited, by their position in the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// Every token, written ones included.
    #[default]
    All,
    /// From a position on.
    From(u32),
    /// Some positions, ascending.
    Some(Vec<u32>),
}

impl At {
    fn contains(&self, position: u32) -> bool {
        match self {
            At::All => true,
            At::From(first) => position >= *first,
            At::Some(positions) => positions.binary_search(&position).is_ok(),
        }
    }
}

/// One edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Where.
    pub place: Place,
    /// Only these heads of the row (query heads for `q`, `q_rot` and `z`; kv heads for `k`, `v` and `k_rot`); `None` for
    /// the whole row.
    pub heads: Option<Vec<usize>>,
    /// Which tokens.
    pub at: At,
    /// What.
    pub change: Change,
}

impl Edit {
    /// An edit of whole rows of every token.
    pub fn new(place: Place, change: Change) -> Edit {
        Edit { place, heads: None, at: At::All, change }
    }

    fn check(&self, config: &Config) -> Result<(), LensError> {
        let refuse = |why: String| Err(LensError::setting("edit", self.place, why));
        let place = self.place;
        let exists = if place.site.is_global() { place.layer == config.layers } else { place.layer < config.layers };
        if !exists {
            return refuse(format!("the model has layers 0 to {}", config.layers - 1));
        }
        let width = place.width(config);
        if let Some(heads) = &self.heads {
            match place.site.heads(config) {
                None => return refuse("its rows are not made of heads; q, k, v, q_rot, k_rot and z are".into()),
                Some(count) => {
                    if let Some(head) = heads.iter().find(|&&h| h >= count) {
                        let kind = if count == config.kv_heads { "kv heads" } else { "query heads" };
                        return refuse(format!("head {head} of its {count} {kind}, 0 to {}", count - 1));
                    }
                    if heads.is_empty() {
                        return refuse("it names no head".into());
                    }
                }
            }
        }
        let row = match &self.change {
            Change::Zero => None,
            Change::Scale(factor) if !factor.is_finite() => return refuse(format!("cannot be multiplied by {factor}")),
            Change::Scale(_) => None,
            Change::Replace(values) | Change::Add(values) => values.rows().find(|row| row.len() != width),
            Change::ProjectOut(direction) => {
                let norm: f64 = direction.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
                if !(norm > 0.0 && norm.is_finite()) {
                    return refuse("a direction without length cannot be projected out".into());
                }
                (direction.len() != width).then_some(direction)
            }
        };
        match row {
            Some(row) => refuse(format!("a row of {} values for a place of {width}", row.len())),
            None => Ok(()),
        }
    }

    fn changes_nothing(&self) -> bool {
        match &self.change {
            Change::Scale(factor) => *factor == 1.0,
            Change::Add(values) => values.rows().all(|row| row.iter().all(|&v| v == 0.0)),
            _ => false,
        }
    }

    fn apply(&self, row: &mut [f32], position: u32, heads: Option<usize>) {
        let spans: Vec<std::ops::Range<usize>> = match (&self.heads, heads) {
            (Some(wanted), Some(count)) => {
                let dim = row.len() / count;
                wanted.iter().map(|h| h * dim..(h + 1) * dim).collect()
            }
            _ => std::iter::once(0..row.len()).collect(),
        };
        for span in spans {
            let part = &mut row[span.clone()];
            match &self.change {
                Change::Zero => part.fill(0.0),
                Change::Replace(values) => {
                    if let Some(new) = values.row(position) {
                        part.copy_from_slice(&new[span]);
                    }
                }
                Change::Add(values) => {
                    if let Some(more) = values.row(position) {
                        part.iter_mut().zip(&more[span]).for_each(|(x, m)| *x += m);
                    }
                }
                Change::Scale(factor) => part.iter_mut().for_each(|x| *x *= factor),
                Change::ProjectOut(direction) => project_out(part, &direction[span]),
            }
        }
    }
}

fn project_out(row: &mut [f32], direction: &[f32]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norm = dot(direction, direction);
    if norm > 0.0 {
        let along = dot(row, direction) / norm;
        row.iter_mut().zip(direction).for_each(|(x, &v)| *x = (f64::from(*x) - along * f64::from(v)) as f32);
    }
}

/// Several edits as one hook; they are done in the order given.
#[derive(Debug)]
pub struct Edits {
    edits: Vec<Edit>,
    heads: Vec<Option<usize>>,
    edited: usize,
}

impl Edits {
    /// Edits that fit a model.
    ///
    /// # Errors
    /// No edit, a place or a head that the model does not have, rows of another width.
    pub fn new(edits: Vec<Edit>, config: &Config) -> Result<Edits, LensError> {
        if edits.is_empty() {
            return Err(LensError::setting("edits", "none", "give at least one"));
        }
        edits.iter().try_for_each(|edit| edit.check(config))?;
        let heads = edits.iter().map(|edit| edit.place.site.heads(config)).collect();
        Ok(Edits { edits, heads, edited: 0 })
    }

    /// Rows that have been edited so far.
    pub fn edited(&self) -> usize {
        self.edited
    }
}

impl Hook for Edits {
    fn name(&self) -> &str {
        "edit"
    }

    fn wants(&self, site: Site, layer: usize) -> bool {
        self.edits.iter().any(|edit| edit.place == Place { layer, site })
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        let place = Place { layer: visit.layer, site: visit.site };
        let here = self.edits.iter().zip(&self.heads).filter(|(edit, _)| edit.place == place);
        for (edit, &heads) in here {
            let rows = visit.rows.chunks_exact_mut(visit.width).zip(visit.positions);
            for (row, &position) in rows.filter(|(_, position)| edit.at.contains(**position)) {
                self.edited += 1;
                if !edit.changes_nothing() {
                    edit.apply(row, position, heads);
                }
            }
        }
        Ok(())
    }
}
