//! Weights of modules as they are stored and trained.

use super::{AcmConfig, BiasMode, GateWeights};
use crate::vit::{BlockPart, Params, VitConfig};

/// A block's module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AcmBlock {
    /// First layers, one learner after another: (w, width) each.
    pub w1: Vec<Vec<f32>>,
    /// Hidden biases (w) each; empty in [`BiasMode::None`].
    pub b1: Vec<Vec<f32>>,
    /// Second layers, a slab a learner: (width, w) each.
    pub w2: Vec<Vec<f32>>,
    /// Output bias (width) in [`BiasMode::AlwaysOut`], else empty.
    pub bias: Vec<f32>,
    /// The gate, once there is one.
    pub gate: Option<GateWeights>,
}

/// All modules, one a block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AcmParams {
    /// In the order of the blocks.
    pub blocks: Vec<AcmBlock>,
}

impl AcmBlock {
    /// The dense feed-forward of block `layer` cut into learners of `widths` neurons, taken in `order` (a permutation of
    /// the neurons): with an always-on output bias, all learners on are the dense module.
    pub fn split(params: &Params, layer: usize, order: &[usize], (widths, bias): (&[usize], BiasMode)) -> AcmBlock {
        let part = |part| params.block(layer, part);
        let (fc1, b1, fc2) = (part(BlockPart::Fc1Weight), part(BlockPart::Fc1Bias), part(BlockPart::Fc2Weight));
        let mlp = b1.len().max(1);
        let (d, mut block, mut from) = (fc2.len() / mlp, AcmBlock::default(), 0);
        for w in widths {
            let own = &order[from.min(order.len())..(from + w).min(order.len())];
            from += w;
            block.w1.push(own.iter().flat_map(|n| fc1[n * d..(n + 1) * d].to_vec()).collect());
            block.b1.push(if bias == BiasMode::None { Vec::new() } else { own.iter().map(|n| b1[*n]).collect() });
            block.w2.push((0..d).flat_map(|row| own.iter().map(move |n| fc2[row * mlp + n])).collect());
        }
        if bias == BiasMode::AlwaysOut {
            block.bias = part(BlockPart::Fc2Bias).to_vec();
        }
        block
    }

    /// The tensors of a module: name, shape, values.
    pub(super) fn tensors(&self, layer: usize, width: usize) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut all = Vec::new();
        let name = |end: &str| format!("blocks.{layer}.mlp.acm.{end}");
        for n in 0..self.w1.len() {
            let w = self.w1[n].len() / width.max(1);
            all.push((name(&format!("learners.{n}.w1")), vec![w, width], self.w1[n].as_slice()));
            if !self.b1[n].is_empty() {
                all.push((name(&format!("learners.{n}.b1")), vec![w], &self.b1[n]));
            }
            all.push((name(&format!("learners.{n}.w2")), vec![width, w], &self.w2[n]));
        }
        if !self.bias.is_empty() {
            all.push((name("bias"), vec![width], &self.bias));
        }
        if let Some(g) = &self.gate {
            all.push((name("gate.0.weight"), vec![g.b1.len(), width], &g.w1));
            all.push((name("gate.0.bias"), vec![g.b1.len()], &g.b1));
            all.push((name("gate.1.weight"), vec![g.b2.len(), g.b1.len()], &g.w2));
            all.push((name("gate.1.bias"), vec![g.b2.len()], &g.b2));
        }
        all
    }

    /// A module of zeros of the shape that `config` says.
    pub(super) fn zeros(config: &AcmConfig, vit: &VitConfig) -> AcmBlock {
        let d = vit.width;
        let each = |f: &dyn Fn(usize) -> usize| config.widths.iter().map(|w| vec![0.0; f(*w)]).collect::<Vec<_>>();
        let (hidden, choices) = (config.gate_hidden, config.learners + 1 - config.min_choice);
        let gate = (hidden > 0).then(|| GateWeights {
            w1: vec![0.0; hidden * d],
            b1: vec![0.0; hidden],
            w2: vec![0.0; choices * hidden],
            b2: vec![0.0; choices],
        });
        AcmBlock {
            w1: each(&|w| w * d),
            b1: each(&|w| if config.bias == BiasMode::None { 0 } else { w }),
            w2: each(&|w| w * d),
            bias: vec![0.0; if config.bias == BiasMode::AlwaysOut { d } else { 0 }],
            gate,
        }
    }
}
