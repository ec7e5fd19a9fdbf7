//! Modules that run.

use std::sync::{Mutex, PoisonError};

use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::grouped::{Activation, GroupedPlan, LearnerWeights, Learners, Residual, grouped_ffn};
use meden_kernels::{Isa, Pool};

use super::dial::{chance, drawn};
use super::gate::choose;
use super::{AcmConfig, AcmParams, Dial, GateWeights};
use crate::error::VisionError;

struct Gate {
    first: Panels,
    weights: GateWeights,
}

struct Module {
    learners: Learners,
    bias: Vec<f32>,
    gate: Option<Gate>,
}

/// What ran, since it was last taken: for each module the learners of each token, image after image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen(pub Vec<Vec<u8>>);

/// The modules of a model, packed.
pub struct AcmModel {
    config: AcmConfig,
    modules: Vec<Module>,
    dial: Dial,
    seen: Mutex<Seen>,
}

impl AcmModel {
    /// Packs modules for tokens of `width` values. The dial stands at the gates as trained, or, where there are none yet,
    /// at all learners.
    ///
    /// # Errors
    /// Weights that do not fit each other.
    pub fn new(pool: &Pool, width: usize, config: AcmConfig, params: &AcmParams) -> Result<AcmModel, VisionError> {
        let mut modules = Vec::new();
        for block in &params.blocks {
            let each = block.w1.iter().zip(&block.b1).zip(&block.w2);
            let weights: Vec<_> = each.map(|((w1, b1), w2)| LearnerWeights { w1, b1, w2 }).collect();
            let learners = Learners::new(pool, width, Activation::Gelu, &weights)
                .map_err(|e| VisionError::input("learners", e.to_string()))?;
            let gate = block
                .gate
                .clone()
                .map(|weights| Gate { first: Panels::of(pool, View::new(&weights.w1, width).transposed()), weights });
            modules.push(Module { learners, bias: block.bias.clone(), gate });
        }
        let gates = modules.iter().all(|m| m.gate.is_some());
        let most = config.learners;
        let dial = if gates { Dial::Gates { shift: 0.0, most } } else { Dial::Fixed(most) };
        Ok(AcmModel { config, modules, dial, seen: Mutex::default() })
    }

    /// What acm.json said.
    pub fn config(&self) -> &AcmConfig {
        &self.config
    }

    /// Who chooses.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Turns the dial.
    ///
    /// # Errors
    /// Gates that do not exist yet, more learners than there are, fewer than a gate may choose, or shares that fit not the
    /// modules.
    pub fn turn(&mut self, dial: Dial) -> Result<(), VisionError> {
        let n = self.config.learners;
        let why = match &dial {
            Dial::Gates { .. } if self.modules.iter().any(|m| m.gate.is_none()) => {
                "the gates are not trained yet: run phase 2 of the conversion, or fix the number of learners".to_owned()
            }
            Dial::Gates { shift, .. } if !shift.is_finite() => format!("a shift of {shift}"),
            Dial::Gates { most: k, .. } | Dial::Fixed(k) if *k > n || *k < self.config.min_choice => {
                format!("{k} learners; this model's modules run {} to {n}", self.config.min_choice)
            }
            Dial::Random { shares, .. }
                if shares.len() != self.modules.len() || shares.iter().any(|s| s.len() != n + 1) =>
            {
                format!("shares of {} modules; {} of {} numbers are needed", shares.len(), self.modules.len(), n + 1)
            }
            _ => {
                self.dial = dial;
                return Ok(());
            }
        };
        Err(VisionError::input("dial", why))
    }

    /// What ran since this was last asked.
    pub fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Multiply-adds that `seen` stands for: learners of each token, and a gate for each where gates choose.
    pub fn macs(&self, seen: &Seen) -> u64 {
        let gates = matches!(self.dial, Dial::Gates { .. });
        let one = |module: &Module, ks: &Vec<u8>| {
            let gate = module.gate.as_ref().filter(|_| gates).map_or(0, |g| g.weights.macs());
            ks.iter().map(|k| module.learners.macs(usize::from(*k)) + gate).sum::<u64>()
        };
        self.modules.iter().zip(&seen.0).map(|(m, ks)| one(m, ks)).sum()
    }

    /// Share of all learner rows that ran, by cost.
    pub fn share(&self, seen: &Seen) -> f64 {
        let each = || self.modules.iter().zip(&seen.0);
        let ran: u64 = each().flat_map(|(m, ks)| ks.iter().map(|k| m.learners.macs(usize::from(*k)))).sum();
        let all: u64 = each().map(|(m, ks)| ks.len() as u64 * m.learners.macs(m.learners.count())).sum();
        ran as f64 / all.max(1) as f64
    }

    /// For each module the share of tokens of 0, 1, … N learners: what [`Dial::Random`] draws from.
    pub fn shares(&self, seen: &Seen) -> Vec<Vec<f64>> {
        let one = |ks: &Vec<u8>| {
            let mut counts = vec![0.0; self.config.learners + 1];
            ks.iter().for_each(|k| counts[usize::from(*k)] += 1.0 / ks.len().max(1) as f64);
            counts
        };
        seen.0.iter().map(one).collect()
    }

    /// Adds module `layer`'s output for normed rows `z` to `x`, inside layer scale.
    pub(crate) fn run(
        &self,
        (pool, isa): (&Pool, Isa),
        layer: usize,
        (z, scale): (&[f32], &[f32]),
        plan: &mut GroupedPlan,
        x: &mut [f32],
    ) {
        let module = &self.modules[layer];
        let k = self.choices((pool, isa), layer, z);
        let residual = Residual { bias: &module.bias, scale };
        // Shapes were checked when the weights were packed, and no choice is above the number of learners.
        let ran = grouped_ffn((pool, isa), (z, &k), &module.learners, residual, plan, x);
        debug_assert!(ran.is_ok());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.resize(self.modules.len(), Vec::new());
        seen.0[layer].extend_from_slice(&k);
    }

    fn choices(&self, (pool, isa): (&Pool, Isa), layer: usize, z: &[f32]) -> Vec<u8> {
        let module = &self.modules[layer];
        let width = module.learners.width();
        match (&self.dial, &module.gate) {
            (Dial::Gates { shift, most }, Some(gate)) => {
                let hidden = gate.weights.b1.len();
                let mut first = vec![0.0; z.len() / width * hidden];
                gemm(pool, isa, View::new(z, width), &gate.first, &mut first, Options::default());
                let one = |row: &[f32]| choose(&gate.weights.logits(row), self.config.min_choice, *shift, *most) as u8;
                first.chunks_exact(hidden).map(one).collect()
            }
            (Dial::Random { seed, shares }, _) => {
                z.chunks_exact(width).map(|row| drawn(&shares[layer], chance(*seed, layer, row)) as u8).collect()
            }
            (Dial::Fixed(k), _) => vec![*k as u8; z.len() / width],
            (Dial::Gates { .. }, None) => vec![self.config.learners as u8; z.len() / width],
        }
    }
}
