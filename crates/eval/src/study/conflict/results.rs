//! Everything a study found, as one object.

use std::collections::BTreeMap;

use meden_lens::place::Place;
use meden_lens::probe::controls::Control;
use meden_lens::probe::{Estimate, Evaluation};
use serde::Serialize;

use super::behaviour::{Premise, Shares};
use super::controls::Baseline;
use super::design::Matching;
use super::findings::Finding;
use super::heads::Head;
use super::live::Verdicts;
use super::paper::Seeds;
use super::plan::Plan;
use super::settings::Settings;
use super::signals::{Choice, Order, Signals};
use super::spread::PlaceSpread;
use super::steer::Arm;
use super::task::Asks;
use super::tug::Tug;

/// What a study found. Parts that were not reached, because the premise failed, are absent.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// What it was made with.
    pub settings: Settings,
    /// Layers of the model.
    pub layers: usize,
    /// Facts and known facts of each relation.
    pub memory: Vec<Memory>,
    /// How false answers are matched.
    pub matching: Matching,
    /// Known facts that are not tested, and why.
    pub left_out: Vec<(String, usize)>,
    /// Whether the premise holds.
    pub premise: Premise,
    /// What the study can see.
    pub plan: Plan,
    /// Shares of answers over all prompts, by kind of demonstrations.
    pub shares: Vec<Shares>,
    /// Shares of answers by relation, over all kinds of demonstrations.
    pub by_relation: Vec<RelationShares>,
    /// What probes tell about each question.
    pub questions: Vec<Question>,
    /// Where the two signals peak.
    pub order: Option<Order>,
    /// How rows are spread under each source.
    pub spreads: Vec<Located<PlaceSpread>>,
    /// The two answers through the logit lens, one a layer.
    pub tug: Vec<Tug>,
    /// Heads.
    pub heads: Vec<Head>,
    /// Steering.
    pub steering: Option<Steering>,
    /// The paper's own protocol, for conflict.
    pub paper: Vec<Located<Seeds>>,
    /// What can be believed of the probes that were saved.
    pub live: Vec<Live>,
    /// What it comes to.
    pub findings: Vec<Finding>,
}

/// A relation's facts.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Its name.
    pub relation: String,
    /// Facts asked.
    pub facts: usize,
    /// Facts known.
    pub known: usize,
    /// Facts tested.
    pub tested: usize,
}

/// What a relation's conflicts come to.
#[derive(Clone, Debug, Serialize)]
pub struct RelationShares {
    /// Its name.
    pub relation: String,
    /// Prompts.
    pub prompts: usize,
    /// Shares of answers from [the text, memory, neither].
    pub shares: [f64; 3],
}

/// Something about a place.
#[derive(Clone, Debug, Serialize)]
pub struct Located<T> {
    /// Where, as in files.
    pub place: Place,
    /// Site.
    pub site: &'static str,
    /// Layer.
    pub layer: usize,
    /// What.
    #[serde(flatten)]
    pub of: T,
}

impl<T> Located<T> {
    /// Something about a place.
    pub fn new(place: Place, of: T) -> Located<T> {
        Located { place, site: place.site.name(), layer: place.layer, of }
    }
}

/// Figures of a probe at a place.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// On contexts that training used.
    pub seen: Evaluation,
    /// On contexts held out.
    pub held_out: Evaluation,
    /// Features with a weight, mean over folds.
    pub features: f64,
}

/// What probes tell about a question.
#[derive(Clone, Debug, Serialize)]
pub struct Question {
    /// The question.
    pub asks: Asks,
    /// Rows.
    pub rows: usize,
    /// Facts with rows labelled [false, true].
    pub facts: [usize; 2],
    /// Probes at every place.
    pub places: Vec<Located<Figures>>,
    /// The layers chosen without the fold they are tested on.
    pub choice: Choice,
    /// Controls at the layer that most folds chose, and the difference of means.
    pub controls: Vec<Control>,
    /// AUROC of the chosen layers over pairs of one relation only.
    pub within_relation: Option<Estimate>,
    /// AUROC at the layer that most folds chose, for other penalties.
    pub by_lambda: Vec<(f64, Estimate)>,
    /// Predictors without a probe; for the source only.
    pub baselines: Vec<Baseline>,
}

/// What steering came to.
#[derive(Clone, Debug, Serialize)]
pub struct Steering {
    /// Layer that was edited.
    pub layer: usize,
    /// One a strength.
    pub arms: Vec<Arm>,
}

/// What can be believed of a saved probe.
#[derive(Clone, Debug, Serialize)]
pub struct Live {
    /// Its question.
    pub asks: Asks,
    /// File, in the study's folder.
    pub file: String,
    /// Figures on prompts with agreeing demonstrations.
    pub evaluation: Evaluation,
    /// Expected calibration error there.
    pub calibration_error: f64,
    /// How often verdicts were right.
    pub verdicts: Verdicts,
}

/// Signals as figures, places in order.
pub(super) fn figures(signals: &Signals) -> Vec<Located<Figures>> {
    let one = |(place, s): (&Place, &super::signals::Signal)| {
        let figures = Figures { seen: s.seen.clone(), held_out: s.held_out.clone(), features: s.features };
        Located::new(*place, figures)
    };
    signals.iter().map(one).collect()
}

/// A map as a list, places in order.
pub(super) fn located<T: Clone>(map: &BTreeMap<Place, T>) -> Vec<Located<T>> {
    map.iter().map(|(place, of)| Located::new(*place, of.clone())).collect()
}
