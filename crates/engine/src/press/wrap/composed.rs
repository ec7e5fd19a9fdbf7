//! One press after the other, each on what the one before left.
//!
//! As `ComposedPress` of kvpress. The budget is what the last press leaves: with k presses, each keeps the k-th root of
//! the share that has to stay, unless `keeps` names the shares of all but the last. A press that decides itself how much
//! stays may stand anywhere but at the end of a list with a budget; one that narrows keys (`think`) stands last. What a later press reads (norms,
//! attention mass, recent queries) was gathered from the whole text; it only judges fewer slots.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::wrap::merging::edits;
use crate::press::{LayerShare, LayerState, LayerView, Needs, Piece, Press, PressSpec, Scope, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Composed {
    /// The presses, in the order they act.
    pub presses: Vec<PressSpec>,
    /// Share of what it sees that each press but the last keeps, in (0, 1]; nothing means equal shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<f64>,
}

impl Default for Composed {
    fn default() -> Self {
        let knorm = PressSpec::Knorm(crate::press::score::knorm::Knorm {});
        Composed { presses: vec![knorm, *super::snapkv()], keeps: Vec::new() }
    }
}

struct Ready {
    stages: Vec<Arc<dyn Press>>,
    /// The one that takes channels from what is left.
    narrowing: Option<Arc<dyn Press>>,
    keeps: Vec<f64>,
}

impl Build for Composed {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let refuse = |why: String| EngineError::Press { press: "composed".to_string(), why };
        if self.presses.len() < 2 {
            return Err(refuse(format!("it needs at least two presses in `presses`, not {}", self.presses.len())));
        }
        if let Some(share) = self.keeps.iter().find(|k| !(**k > 0.0 && **k <= 1.0)) {
            return Err(bad("composed", "keeps", share, "numbers above 0, at most 1"));
        }
        let (mut stages, mut narrowing) = (Vec::with_capacity(self.presses.len()), None);
        for spec in &self.presses {
            let press = spec.build()?;
            if press.scope() == Scope::Cache || press.needs().replay {
                return Err(refuse(format!("it cannot hold `{}`, which acts on all layers together", spec.name())));
            }
            if press.renumbers() || edits(spec) {
                return Err(refuse(format!(
                    "it cannot hold `{}`, which changes the cache itself; put it outside",
                    spec.name()
                )));
            }
            if narrowing.is_some() {
                return Err(refuse(format!(
                    "`{}` comes after a press that narrows keys, which has to be last",
                    spec.name()
                )));
            }
            if matches!(spec, PressSpec::Think(_)) { narrowing = Some(press) } else { stages.push(press) }
        }
        if !self.keeps.is_empty() && self.keeps.len() + 1 != stages.len() {
            return Err(refuse(format!(
                "`keeps` has {} shares for {} presses that drop tokens: one for each but the last",
                self.keeps.len(),
                stages.len()
            )));
        }
        let budgeted = |press: &Arc<dyn Press>| !press.own_budget();
        if stages.iter().any(budgeted) && !stages.last().is_some_and(budgeted) {
            return Err(refuse("a press that takes a budget has to come last, so that the budget is met".into()));
        }
        Ok(Arc::new(Ready { stages, narrowing, keeps: self.keeps.clone() }))
    }

    fn parts(&self) -> &[PressSpec] {
        &self.presses
    }
}

impl Ready {
    fn all(&self) -> impl Iterator<Item = &Arc<dyn Press>> {
        self.stages.iter().chain(&self.narrowing)
    }

    /// Slots a head keeps after stage `number`, of `longest` before the first one.
    fn target(&self, number: usize, longest: usize, target: usize) -> usize {
        kept_after((number, self.stages.len()), &self.keeps, longest, target)
    }
}

/// Slots a head keeps after stage `number` of so many, of `longest` before the first one and `target` after the last.
fn kept_after((number, stages): (usize, usize), keeps: &[f64], longest: usize, target: usize) -> usize {
    if number + 1 >= stages || target >= longest {
        return target;
    }
    let kept = match keeps.get(..=number) {
        Some(keeps) => longest as f64 * keeps.iter().product::<f64>(),
        None => longest as f64 * (target as f64 / longest as f64).powf((number + 1) as f64 / stages as f64),
    };
    (kept.round() as usize).max(target)
}

impl Composed {
    /// Slots of each head that are copied for the later presses to look at, when a head goes from `held` to `kept`.
    pub(crate) fn copied(&self, held: usize, kept: usize) -> usize {
        let stages = self.presses.iter().filter(|press| !matches!(press, PressSpec::Think(_))).count();
        if stages < 2 { 0 } else { kept_after((0, stages), &self.keeps, held, kept) }
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "composed"
    }

    fn needs(&self) -> Needs {
        self.all().fold(Needs::default(), |needs, press| needs.and(press.needs()))
    }

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        self.all().try_for_each(|press| press.check(config))
    }

    /// The scores of the first press; the others score what it leaves.
    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.stages[0].score(layer, scores)
    }

    fn protects(&self, target: usize) -> Protect {
        self.stages.iter().fold(Protect::default(), |protect, press| protect.and(press.protects(target)))
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, state: &mut LayerState) -> Result<(), EngineError> {
        self.stages.iter().try_for_each(|press| press.observe(piece, cache, state))
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let longest = layer.longest();
        let of_stage = |number: usize| {
            let target = self.target(number, longest, layer.target);
            (target, 1.0 - target as f64 / longest.max(target).max(1) as f64)
        };
        let (target, removed) = of_stage(0);
        let first = LayerView { target, removed, ..*layer };
        let mut keep = self.stages[0].choose(&first, scores, protect)?;
        for (number, press) in self.stages.iter().enumerate().skip(1) {
            let heads: Vec<HeadCache> = layer.heads.iter().zip(&keep).map(|(h, slots)| h.subset(slots)).collect();
            let (target, _) = of_stage(number);
            let left = heads.iter().map(HeadCache::len).max().unwrap_or(0);
            let removed = 1.0 - target as f64 / left.max(target).max(1) as f64;
            let part = LayerView { heads: &heads, target, removed, ..*layer };
            let mut scores = Scores::of(&heads);
            press.score(&part, &mut scores)?;
            let chosen = press.choose(&part, &scores, protect)?;
            for (keep, chosen) in keep.iter_mut().zip(chosen) {
                *keep = chosen.iter().map(|&at| keep[at as usize]).collect();
            }
        }
        Ok(keep)
    }

    fn layer_target(&self, share: LayerShare<'_>) -> usize {
        self.stages.last().map_or(share.mean, |press| press.layer_target(share))
    }

    fn channels(&self, layer: &LayerView<'_>) -> Result<Option<Vec<Vec<u32>>>, EngineError> {
        self.narrowing.as_ref().map_or(Ok(None), |press| press.channels(layer))
    }

    fn narrows_to(&self, head_dim: usize) -> Option<usize> {
        self.narrowing.as_ref().and_then(|press| press.narrows_to(head_dim))
    }

    fn own_budget(&self) -> bool {
        self.stages.iter().all(|press| press.own_budget())
    }

    fn only_at_prefill_end(&self) -> Option<&'static str> {
        self.all().find_map(|press| press.only_at_prefill_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_stages_multiply_to_the_budget() {
        let built = |keeps: &[f64]| {
            let knorm = PressSpec::knorm();
            let stages = (0..2).map(|_| knorm.build().unwrap()).collect();
            Ready { stages, narrowing: None, keeps: keeps.to_vec() }
        };
        // 25 of 100 over two presses: half, then half of that
        assert_eq!((built(&[]).target(0, 100, 25), built(&[]).target(1, 100, 25)), (50, 25));
        assert_eq!((built(&[0.8]).target(0, 100, 25), built(&[0.8]).target(1, 100, 25)), (80, 25));
        assert_eq!(built(&[0.1]).target(0, 100, 25), 25, "never less than the budget");
        assert_eq!(built(&[]).target(0, 20, 25), 25, "room to spare");
    }
}
