//! Which weights a step trains, method by method.

use meden_stats::Rng;
use meden_vision::vit::{BlockPart, Part, VitConfig};

use super::alast::{AlastOptions, Budgets, draw};
use super::error::TrainError;
use super::lora::LoraOptions;
use super::network::Trained;

/// The stream that LISA draws from.
const LISA: u64 = 0x6c69_7361;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Method {
    /// Everything.
    Full,
    /// The classifier alone.
    Probe,
    /// The last blocks, the last norm and the classifier.
    LastK {
        /// Blocks.
        k: usize,
    },
    /// Biases and the classifier (Ben Zaken et al., 2021).
    Bitfit,
    /// Low-rank additions to queries and values, and the classifier.
    Lora(LoraOptions),
    /// Some blocks drawn evenly, held for some steps; embeddings, last norm and classifier always (LISA, arXiv 2403.17919).
    Lisa {
        /// Blocks.
        k: usize,
        /// Steps between draws.
        interval: u64,
    },
    /// Adaptive layer and token selection.
    Alast(AlastOptions),
}

impl Method {
    /// The low-rank additions that it trains.
    pub fn adapters(&self) -> Option<LoraOptions> {
        match self {
            Method::Lora(lora) => Some(*lora),
            Method::Alast(alast) => alast.lora,
            _ => None,
        }
    }

    /// Budgets at their beginning, for ALaST.
    ///
    /// # Errors
    /// Settings that make no sense for this model.
    pub(super) fn check(&self, config: &VitConfig) -> Result<Option<Budgets>, TrainError> {
        let layers = config.layers;
        if let Some(lora) = self.adapters() {
            lora.check(config.width)?;
        }
        match *self {
            Method::LastK { k } | Method::Lisa { k, .. } if k > layers => {
                Err(TrainError::setting("k", format!("{k} blocks of a model that has {layers}")))
            }
            Method::Lisa { interval: 0, .. } => Err(TrainError::setting("interval", "0 steps; at least 1")),
            Method::Alast(o) => {
                if o.k > layers {
                    return Err(TrainError::setting("k", format!("{} blocks of a model that has {layers}", o.k)));
                }
                if !(o.temperature > 0.0 && o.temperature.is_finite()) {
                    return Err(TrainError::setting("temperature", format!("{} is no positive number", o.temperature)));
                }
                if let Some(target) = o.target_flops
                    && !(target > 0.0 && target <= 1.0)
                {
                    return Err(TrainError::setting("target flops", format!("{target} is outside (0, 1]")));
                }
                Budgets::new(layers, o.b0, o.clip, o.alpha, o.first_delta).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The weights that a step trains.
    pub(super) fn trained(&self, config: &VitConfig, budgets: Option<&Budgets>, (seed, step): (u64, u64)) -> Trained {
        let head = |p: Part| matches!(p, Part::HeadWeight | Part::HeadBias);
        let last = |p: Part| matches!(p, Part::NormWeight | Part::NormBias) || head(p);
        let adapter = |p: Part| matches!(p, Part::Block(_, kind) if kind.is_adapter());
        let blocks = |chosen: Vec<bool>, embedding: bool| {
            Trained::of(config, |p| p.layer().map_or(last(p) || embedding, |l| chosen[l]))
        };
        match *self {
            Method::Full => Trained::of(config, |_| true),
            Method::Probe => Trained::of(config, head),
            Method::LastK { k } => blocks((0..config.layers).map(|l| l + k >= config.layers).collect(), false),
            Method::Bitfit => Trained::of(config, |p| head(p) || is_bias(p)),
            Method::Lora(_) => Trained::of(config, |p| head(p) || adapter(p)),
            Method::Lisa { k, interval } => {
                let mut order: Vec<usize> = (0..config.layers).collect();
                Rng::new(seed, LISA ^ (step / interval) << 32).shuffle(&mut order);
                let mut chosen = vec![false; config.layers];
                order[..k].iter().for_each(|l| chosen[*l] = true);
                blocks(chosen, true)
            }
            Method::Alast(o) => {
                let values = budgets.map_or(&[][..], |b| &b.values);
                let chosen = draw(o.layers, values, o.trained(config.layers), o.temperature, (seed, step));
                if o.lora.is_some() {
                    return Trained::of(config, |p| head(p) || adapter(p) && p.layer().is_some_and(|l| chosen[l]));
                }
                blocks(chosen, !o.freeze_embed)
            }
        }
    }

    /// Every weight that some step trains.
    pub fn ever_trained(&self, config: &VitConfig) -> Trained {
        let all = |o: &AlastOptions| {
            if o.layers == super::alast::Layers::Suffix {
                *o
            } else {
                AlastOptions { layers: super::alast::Layers::All, ..*o }
            }
        };
        let budgets = || Budgets::new(config.layers, 1.0, (1.0, 1.0), super::alast::Alpha::Fixed(0.0), FIRST).ok();
        match self {
            Method::Alast(o) => Method::Alast(all(o)).trained(config, budgets().as_ref(), (0, 0)),
            Method::Lisa { interval, k } if *k > 0 => {
                Method::Lisa { k: config.layers, interval: *interval }.trained(config, None, (0, 0))
            }
            other => other.trained(config, None, (0, 0)),
        }
    }
}

const FIRST: super::alast::FirstDelta = super::alast::FirstDelta::Observe;

fn is_bias(part: Part) -> bool {
    use BlockPart::{Fc1Bias, Fc2Bias, Norm1Bias, Norm2Bias, ProjBias, QkvBias};
    match part {
        Part::PatchBias | Part::NormBias | Part::HeadBias => true,
        Part::Block(_, part) => matches!(part, Norm1Bias | QkvBias | ProjBias | Norm2Bias | Fc1Bias | Fc2Bias),
        _ => false,
    }
}
