//! What the study will be able to see, said before its prompts are read.

use serde::{Deserialize, Serialize};

use meden_stats::power::least_auroc;

use super::behaviour::Premise;
use super::design::Design;
use super::prompt::Demos;

/// Fewest tested facts that anything is claimed of.
pub const ENOUGH: usize = 150;
/// Chance of a false alarm, and of seeing an effect that is there.
const ALPHA: f64 = 0.05;
const POWER: f64 = 0.8;

/// Sizes, and the smallest effects that they show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Facts that are tested.
    pub facts: usize,
    /// Answers that they share.
    pub answers: usize,
    /// Fewer than [`ENOUGH`] facts.
    pub underpowered: bool,
    /// Smallest AUROC for conflict that is told from chance (two-sided 5%, power 80%), facts counted once a class.
    pub least_conflict_auroc: Option<f64>,
    /// Facts that are expected under each source: [memory, the text], by the premise check.
    pub expected_source_facts: [usize; 2],
    /// Smallest AUROC for the source.
    pub least_source_auroc: Option<f64>,
}

impl Plan {
    /// From the design and the premise check. Facts are the unit: rows of one fact are alike, so counting rows would
    /// promise too much.
    pub fn of(design: &Design, premise: &Premise) -> Plan {
        let facts = design.cases.len();
        let mut answers: Vec<u32> = design.cases.iter().map(|c| c.cluster).collect();
        answers.sort_unstable();
        answers.dedup();
        // a fact counts for a source once it was seen with it under any demonstrations; the premise asks each once a kind
        let shown = premise.shares.iter().filter(|s| s.demos != Demos::None);
        let most = |f: fn(&super::behaviour::Shares) -> f64| {
            let share = shown.clone().map(f).fold(0.0, f64::max);
            (share * facts as f64).round() as usize
        };
        let expected = [most(|s| s.memory[0]), most(|s| s.context[0])];
        Plan {
            facts,
            answers: answers.len(),
            underpowered: facts < ENOUGH,
            least_conflict_auroc: least_auroc(facts, facts, ALPHA, POWER),
            expected_source_facts: expected,
            least_source_auroc: least_auroc(expected[1], expected[0], ALPHA, POWER),
        }
    }
}
