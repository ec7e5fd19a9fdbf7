//! Models that agree on another option than the key.

use super::{Detector, Evidence, Finding};
use crate::choice::Item;

/// Shares of the votes: that of the key, and the largest of another option with its index. `None` where nobody voted.
fn shares(item: &Item, votes: &[Option<usize>]) -> Option<(f64, f64, usize)> {
    let cast: Vec<usize> = votes.iter().flatten().copied().collect();
    if cast.is_empty() {
        return None;
    }
    let share = |o: usize| cast.iter().filter(|&&v| v == o).count() as f64 / cast.len() as f64;
    let others = (0..item.choices.len()).filter(|&o| o != item.answer);
    let best = others.map(|o| (share(o), o)).fold((0.0, item.answer), |a, b| if b.0 > a.0 { b } else { a });
    Some((share(item.answer), best.0, best.1))
}

fn each(evidence: &Evidence<'_>, score: impl Fn(f64, f64, bool) -> f64) -> Vec<Option<Finding>> {
    let opinion = |(item, votes): (&Item, &Vec<Option<usize>>)| {
        let (key, other, best) = shares(item, votes)?;
        let reason = format!(
            "{:.0}% of the models choose the key {}, {:.0}% choose {}",
            100.0 * key,
            Item::letter(item.answer),
            100.0 * other,
            Item::letter(best)
        );
        Some(Finding { score: score(key, other, best < item.answer), reason })
    };
    evidence.items.iter().zip(&evidence.votes).map(opinion).collect()
}

/// The largest share of another option minus that of the key.
pub struct Ensemble;

impl Detector for Ensemble {
    fn name(&self) -> &'static str {
        "vote margin"
    }

    fn about(&self) -> &'static str {
        "share of the strongest other option minus that of the key"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        each(evidence, |key, other, _| 0.5 * (1.0 + other - key))
    }
}

/// One minus the key's share.
pub struct KeyShare;

impl Detector for KeyShare {
    fn name(&self) -> &'static str {
        "key's share"
    }

    fn about(&self) -> &'static str {
        "share of the models that do not choose the key"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        each(evidence, |key, _, _| 1.0 - key)
    }
}

/// The top option's share where it is not the key; of equal shares the first option is the top one.
pub struct TopAgainst;

impl Detector for TopAgainst {
    fn name(&self) -> &'static str {
        "top against key"
    }

    fn about(&self) -> &'static str {
        "share of the most chosen option where that is not the key"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        each(evidence, |key, other, before| if other > key || (other == key && before) { other } else { 0.0 })
    }
}
