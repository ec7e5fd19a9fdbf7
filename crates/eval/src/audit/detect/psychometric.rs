//! Items that good models miss and weak ones get right.

use meden_stats::correlation;

use super::{Detector, Evidence, Finding};

/// Fewest models for an opinion.
const FEWEST: usize = 8;

/// Correlation over models of being right here with the share of right answers on all other items, turned round.
pub struct ItemRest;

impl Detector for ItemRest {
    fn name(&self) -> &'static str {
        "item-rest"
    }

    fn about(&self) -> &'static str {
        "negative correlation of being right here with being right elsewhere, over models"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        let models = evidence.votes.iter().map(Vec::len).max().unwrap_or(0);
        let right = |i: usize, m: usize| f64::from(u8::from(evidence.votes[i][m] == Some(evidence.items[i].answer)));
        let answered: Vec<usize> =
            (0..evidence.items.len()).filter(|&i| models > 0 && evidence.votes[i].len() == models).collect();
        let totals: Vec<f64> = (0..models).map(|m| answered.iter().map(|&i| right(i, m)).sum()).collect();
        let mut out = vec![None; evidence.items.len()];
        if models < FEWEST || answered.len() < 2 {
            return out;
        }
        for &i in &answered {
            let here: Vec<f64> = (0..models).map(|m| right(i, m)).collect();
            let rest: Vec<f64> = (0..models).map(|m| totals[m] - here[m]).collect();
            out[i] = correlation::pearson(&here, &rest).map(|r| Finding {
                score: 0.5 * (1.0 - r),
                reason: format!("being right here goes with being right elsewhere at r = {r:.2} over {models} models"),
            });
        }
        out
    }
}
