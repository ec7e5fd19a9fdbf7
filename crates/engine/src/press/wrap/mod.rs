//! Presses around a press: they change its scores, how its slots are shared out, or the keys that stay.

pub mod adakv;
pub mod block;
pub mod cam;
pub mod chunk;
pub mod chunkkv;
pub mod composed;
pub mod criticaladakv;
pub mod criticalkv;
pub mod dms;
pub mod entropy_chunkkv;
pub mod key_rerotation;
pub mod lukv;
pub mod merging;
pub mod per_layer;
pub(crate) mod pool;
pub mod pooled;

use std::sync::Arc;

use super::{Press, PressSpec, Scope};
use crate::error::EngineError;

/// What a wrapper holds when nothing is said.
pub(crate) fn snapkv() -> Box<PressSpec> {
    Box::new(PressSpec::Snapkv(super::score::snapkv::SnapKv::default()))
}

/// The press inside, which has to be one that scores and leaves the choice to others.
pub(crate) fn scorer(wrapper: &str, inner: &PressSpec) -> Result<Arc<dyn Press>, EngineError> {
    let refuse = |why: &str| EngineError::Press {
        press: wrapper.to_string(),
        why: format!("it cannot hold `{}`, {why}", inner.name()),
    };
    let press = inner.build()?;
    if press.own_budget() {
        return Err(refuse("which decides itself how much stays"));
    }
    let chooses = match inner {
        PressSpec::Finch(finch) => finch.chunk_length.is_some(),
        PressSpec::Composed(_) => true,
        _ => inner.inner().is_some_and(|_| !keeps_choice(inner)),
    };
    if press.scope() == Scope::Cache || press.renumbers() || chooses {
        return Err(refuse("which chooses by itself what stays; put it outside instead"));
    }
    Ok(press)
}

/// Wrappers that only change scores.
fn keeps_choice(spec: &PressSpec) -> bool {
    matches!(spec, PressSpec::Criticalkv(_))
}

/// Hands methods through to `self.inner`.
macro_rules! passes_on {
    ($($method:ident),*) => { $(super::passes_on!(@ $method);)* };
    (@ needs) => {
        fn needs(&self) -> crate::press::Needs {
            self.inner.needs()
        }
    };
    (@ score) => {
        fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
            self.inner.score(layer, scores)
        }
    };
    (@ protects) => {
        fn protects(&self, target: usize) -> crate::press::select::Protect {
            self.inner.protects(target)
        }
    };
    (@ observe) => {
        fn observe(
            &self,
            piece: &crate::press::Piece<'_>,
            cache: &mut crate::cache::LayerCache,
            state: &mut crate::press::LayerState,
        ) -> Result<(), EngineError> {
            self.inner.observe(piece, cache, state)
        }
    };
    (@ layer_target) => {
        fn layer_target(&self, share: crate::press::LayerShare<'_>) -> usize {
            self.inner.layer_target(share)
        }
    };
    (@ choose) => {
        fn choose(
            &self,
            layer: &LayerView<'_>,
            scores: &Scores,
            protect: crate::press::select::Protect,
        ) -> Result<crate::press::select::Keep, EngineError> {
            self.inner.choose(layer, scores, protect)
        }
    };
    (@ own_budget) => {
        fn own_budget(&self) -> bool {
            self.inner.own_budget()
        }
    };
    (@ check) => {
        fn check(&self, config: &crate::model::config::Config) -> Result<(), crate::error::EngineError> {
            self.inner.check(config)
        }
    };
    (@ only_at_prefill_end) => {
        fn only_at_prefill_end(&self) -> Option<&'static str> {
            self.inner.only_at_prefill_end()
        }

        // whatever limits the press inside limits its wrapper: data of another model, too
        fn fits(&self, model: &crate::model::Model) -> Result<(), crate::error::EngineError> {
            self.inner.fits(model)
        }
    };
}
pub(crate) use passes_on;
