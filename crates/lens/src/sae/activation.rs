//! From pre-activations to latents.

/// What makes latents of the pre-activations `p = x W_enc + b_enc`.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    /// `max(p, 0)`.
    Relu,
    /// The `k` largest of `max(p, 0)` in each row; of equal ones the first.
    TopK {
        /// Latents that may be active.
        k: usize,
    },
    /// The `k` x rows largest of `max(p, 0)` over all rows that are encoded together. Files hold a threshold instead and
    /// are JumpReLU.
    BatchTopK {
        /// Latents active in a row, on average.
        k: usize,
    },
    /// `p` where it lies above the latent's threshold, else 0.
    JumpRelu {
        /// One a latent, not negative.
        threshold: Vec<f32>,
    },
    /// `max(x W_enc * exp(r_mag) + b_mag, 0)` where `x W_enc + b_gate` is positive. `b_enc` is not used.
    Gated {
        /// Bias of the gate.
        b_gate: Vec<f32>,
        /// Bias of the magnitude.
        b_mag: Vec<f32>,
        /// Logarithm of how much the magnitude's weights are scaled.
        r_mag: Vec<f32>,
    },
    /// The largest of `max(p, 0)` in each of `k` runs of neighbouring latents.
    GroupMax {
        /// Runs; they part the latents evenly.
        k: usize,
    },
}

impl Activation {
    /// The name in messages and in files of SAELens, where that has one.
    pub fn name(&self) -> &'static str {
        match self {
            Activation::Relu => "standard",
            Activation::TopK { .. } => "topk",
            Activation::BatchTopK { .. } => "batchtopk",
            Activation::JumpRelu { .. } => "jumprelu",
            Activation::Gated { .. } => "gated",
            Activation::GroupMax { .. } => "groupmax",
        }
    }

    /// Whether rows can be encoded one by one.
    pub fn is_rowwise(&self) -> bool {
        !matches!(self, Activation::BatchTopK { .. })
    }

    /// The latent of a pre-activation by itself, without any competition between latents: for TopK and its kin that is
    /// `max(p, 0)`. `p` is the product without a bias, `b_enc` the latent's bias.
    pub(super) fn alone(&self, latent: usize, product: f32, b_enc: f32) -> f32 {
        match self {
            Activation::JumpRelu { threshold } => {
                let p = product + b_enc;
                if p > threshold[latent] { p } else { 0.0 }
            }
            Activation::Gated { b_gate, b_mag, r_mag } => {
                let open = product + b_gate[latent] > 0.0;
                if open { (product * r_mag[latent].exp() + b_mag[latent]).max(0.0) } else { 0.0 }
            }
            _ => (product + b_enc).max(0.0),
        }
    }
}
