//! Signals that an item may be faulty, one detector a file. None of them needs a model.

mod duplicate;
mod ensemble;
mod options;
mod psychometric;
mod surface;

use meden_stats::ranking;

use super::predictions::{Predictions, option, voters};
use crate::choice::Item;

pub use duplicate::{Duplicate, fold, groups};
pub use ensemble::{Ensemble, KeyShare, TopAgainst};
pub use options::Options;
pub use psychometric::ItemRest;
pub use surface::Surface;

/// Voters that agree on more than this share of items count once.
pub const SAME_VOTER: f64 = 0.98;

/// What detectors may look at. They see no label.
pub struct Evidence<'a> {
    /// The items.
    pub items: &'a [Item],
    /// What models chose, one list an item: `None` for an abstention. Empty where there are no predictions for the item.
    pub votes: Vec<Vec<Option<usize>>>,
}

impl<'a> Evidence<'a> {
    /// Joins predictions to items; near copies of a model have one vote.
    pub fn new(items: &'a [Item], predictions: Option<&Predictions>) -> Evidence<'a> {
        let kept = predictions.map(|p| voters(p, SAME_VOTER)).unwrap_or_default();
        let votes = items
            .iter()
            .map(|item| {
                let said = predictions.and_then(|p| p.answers.get(&item.id));
                said.map(|s| kept.iter().map(|&m| option(&s[m], item.choices.len())).collect()).unwrap_or_default()
            })
            .collect();
        Evidence { items, votes }
    }
}

/// An opinion on an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How suspicious it is, in 0..=1.
    pub score: f64,
    /// Why, for a reader.
    pub reason: String,
}

/// A signal.
pub trait Detector {
    /// Its name in tables.
    fn name(&self) -> &'static str;
    /// What it looks at, in a sentence.
    fn about(&self) -> &'static str;
    /// Its opinion on each item, `None` where it has none. The same evidence gives the same findings.
    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>>;
}

/// All detectors.
pub fn all() -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(Ensemble),
        Box::new(KeyShare),
        Box::new(TopAgainst),
        Box::new(ItemRest),
        Box::new(Options),
        Box::new(Surface),
        Box::new(Duplicate),
    ]
}

/// Scores for ranking: no opinion stands below every opinion.
pub fn scores(findings: &[Option<Finding>]) -> Vec<f64> {
    findings.iter().map(|f| f.as_ref().map_or(-1.0, |f| f.score)).collect()
}

/// How well a ranking finds faults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Average precision, equal scores taken as one step.
    pub average_precision: f64,
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Share of faulty items among the 100 highest (or all, where there are fewer).
    pub at_100: f64,
    /// That share over the share of faulty items in all.
    pub lift: f64,
}

/// Judges scores against labels; `None` without a faulty item.
pub fn quality(faulty: &[bool], scores: &[f64]) -> Option<Quality> {
    let base = faulty.iter().filter(|f| **f).count() as f64 / faulty.len().max(1) as f64;
    let at_100 = ranking::precision_at(faulty, scores, faulty.len().min(100))?;
    Some(Quality {
        average_precision: ranking::average_precision(faulty, scores)?,
        auroc: ranking::auroc(faulty, scores),
        at_100,
        lift: (base > 0.0).then(|| at_100 / base)?,
    })
}
