//! `acm.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::VisionError;
use crate::vit::VitConfig;

/// Version of the layout.
pub(super) const VERSION: u32 = 1;

/// Biases of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BiasMode {
    /// Each learner's hidden layer has one; no token gets an output bias, so k = 0 gives nothing.
    Hidden,
    /// None.
    None,
    /// Hidden ones, and the dense output bias once for every token, also at k = 0: all learners on are the dense module.
    AlwaysOut,
}

/// A place of the dial that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialPoint {
    /// What is taken from the logit of choice n, times n.
    pub shift: f64,
    /// Share of learner rows that ran on the calibration images.
    pub share: f64,
}

/// What `acm.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmConfig {
    /// Version of the layout: 1.
    pub version: u32,
    /// N.
    pub learners: usize,
    /// Hidden width of each learner.
    pub widths: Vec<usize>,
    /// What is replaced: "ffn".
    pub parts: Vec<String>,
    /// Fewest learners a gate may choose.
    pub min_choice: usize,
    /// Biases.
    pub bias: BiasMode,
    /// Hidden width of the gates; 0 before they exist.
    pub gate_hidden: usize,
    /// Ratio of errors from which on one more learner is not worth it.
    pub tau: f64,
    /// Phases that are done, in order.
    pub phases: Vec<u8>,
    /// Share of learner rows that was asked for.
    pub target: Option<f64>,
    /// Share that the gates ran on held-out images at shift 0.
    pub achieved: Option<f64>,
    /// The dial's scale, by rising shift.
    pub dial: Vec<DialPoint>,
}

impl AcmConfig {
    /// Holds everything against the model's shape before it is believed.
    ///
    /// # Errors
    /// A field that makes no sense, by name.
    pub fn check(&self, path: &Path, vit: &VitConfig) -> Result<(), VisionError> {
        let refuse = |field: &str, why: String| Err(VisionError::config(path, field, why));
        if self.version != VERSION {
            return refuse("version", format!("{} is not read here; convert the model again", self.version));
        }
        if !(1..=meden_kernels::grouped::MOST_LEARNERS).contains(&self.learners) {
            return refuse("learners", format!("{} is outside 1 to 64", self.learners));
        }
        let sum = self.widths.iter().try_fold(0usize, |sum, w| sum.checked_add(*w));
        if self.widths.len() != self.learners || self.widths.contains(&0) || sum.is_none_or(|s| s > 4 * vit.mlp) {
            let why = format!(
                "{:?} are not {} widths above 0 that fit a feed-forward of {}",
                self.widths, self.learners, vit.mlp
            );
            return refuse("widths", why);
        }
        if self.parts != ["ffn"] {
            return refuse("parts", format!("{:?}; only [\"ffn\"] is run", self.parts));
        }
        if self.min_choice > self.learners {
            return refuse("min_choice", format!("{} of {} learners", self.min_choice, self.learners));
        }
        if self.gate_hidden > 4096 {
            return refuse("gate_hidden", format!("{} is above 4096", self.gate_hidden));
        }
        let share = |v: f64| (0.0..=1.0).contains(&v);
        if !(self.tau > 0.0 && self.tau <= 1.0) {
            return refuse("tau", format!("{} is outside (0, 1]", self.tau));
        }
        for (field, value) in [("target", self.target), ("achieved", self.achieved)] {
            if value.is_some_and(|v| !share(v)) {
                return refuse(field, "a share between 0 and 1 is needed".into());
            }
        }
        if self.dial.iter().any(|p| !p.shift.is_finite() || !share(p.share)) {
            return refuse("dial", "shifts have to be finite and shares between 0 and 1".into());
        }
        Ok(())
    }

    /// The shift of the logits at which about `budget` of the learner rows run: between the nearest measured places.
    ///
    /// # Errors
    /// A model whose dial was not measured, or a budget beyond it, with the ends.
    pub fn shift_for(&self, budget: f64) -> Result<f64, VisionError> {
        let mut dial = self.dial.clone();
        dial.sort_by(|a, b| a.share.total_cmp(&b.share).then(b.shift.total_cmp(&a.shift)));
        let (Some(low), Some(high)) = (dial.first(), dial.last()) else {
            return Err(VisionError::input(
                "budget",
                "this model's dial was not measured; run phase 2 of the conversion",
            ));
        };
        if !(low.share..=high.share).contains(&budget) {
            let why =
                format!("{budget} is outside {:.3} to {:.3}, which this model's gates reach", low.share, high.share);
            return Err(VisionError::input("budget", why));
        }
        let above = dial.iter().position(|p| p.share >= budget).unwrap_or(0);
        let (a, b) = (dial[above.saturating_sub(1)], dial[above]);
        let part = if b.share > a.share { (budget - a.share) / (b.share - a.share) } else { 1.0 };
        Ok(a.shift + (b.shift - a.shift) * part)
    }
}
