//! Multiply-adds of a step, counted exactly: linear layers and attention products.

/// Multiply-adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Flops {
    /// Forward.
    pub forward: u64,
    /// Back to inputs.
    pub inputs: u64,
    /// Back to weights.
    pub weights: u64,
}

impl Flops {
    /// All.
    pub fn total(self) -> u64 {
        self.forward + self.inputs + self.weights
    }
}

impl Flops {
    /// The sum of both.
    pub fn plus(self, other: Flops) -> Flops {
        Flops {
            forward: self.forward + other.forward,
            inputs: self.inputs + other.inputs,
            weights: self.weights + other.weights,
        }
    }

    /// So many times.
    pub fn times(self, n: u64) -> Flops {
        Flops { forward: self.forward * n, inputs: self.inputs * n, weights: self.weights * n }
    }

    /// A part of so many, rounded down.
    pub fn divided(self, n: u64) -> Flops {
        let n = n.max(1);
        Flops { forward: self.forward / n, inputs: self.inputs / n, weights: self.weights / n }
    }
}

/// What happens to a block on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its weights are trained.
    Trained,
    /// The gradient passes.
    Passed,
    /// Nothing before it or in it is trained.
    Prefix,
}

/// A block of `n` tokens of width `d` and a feed-forward of `mlp`, for one image: 4 n d^2 + 2 n d mlp in linear layers
/// and 2 n^2 d in attention, forward; attention's two products become four on the way back.
pub fn block_flops((d, mlp): (usize, usize), n: usize, state: State) -> Flops {
    let [d, mlp, n] = [d, mlp, n].map(|v| v as u64);
    let (linear, attention) = (n * d * (4 * d + 2 * mlp), 2 * n * n * d);
    let passes = state != State::Prefix;
    Flops {
        forward: linear + attention,
        inputs: if passes { linear + 2 * attention } else { 0 },
        weights: if state == State::Trained { linear } else { 0 },
    }
}

/// Low-rank additions to queries and values of one block: two products of n d r each, forward, back to inputs, and back
/// to weights where they are trained.
pub fn adapter_flops(d: usize, rank: usize, n: usize, (passes, trained): (bool, bool)) -> Flops {
    let one = 4 * (d * rank * n) as u64;
    Flops { forward: one, inputs: if passes { one } else { 0 }, weights: if trained { one } else { 0 } }
}

/// All blocks of one image: `tokens` that enter each, whether each is trained, and the first that is gone back through.
pub fn step_flops(shape: (usize, usize), tokens: &[usize], trained: &[bool], first: usize) -> Flops {
    let mut sum = Flops::default();
    for (layer, (&n, &trained)) in tokens.iter().zip(trained).enumerate() {
        let state = match (layer < first, trained) {
            (true, _) => State::Prefix,
            (false, true) => State::Trained,
            (false, false) => State::Passed,
        };
        let one = block_flops(shape, n, state);
        sum.forward += one.forward;
        sum.inputs += one.inputs;
        sum.weights += one.weights;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_hand() {
        let full = step_flops((384, 1536), &[197; 12], &[true; 12], 0);
        assert_eq!(full.forward, 12 * (12 * 197 * 384 * 384 + 2 * 197 * 197 * 384));
        assert_eq!(full.inputs, 12 * (12 * 197 * 384 * 384 + 4 * 197 * 197 * 384));
        assert_eq!(full.weights, 12 * 12 * 197 * 384 * 384);
        let mut some = [true; 12];
        some[4..7].fill(false);
        let share = step_flops((384, 1536), &[197; 12], &some, 0).total() as f64 / full.total() as f64;
        assert!((share - 0.92).abs() < 0.005, "{share}");
        let probe = step_flops((384, 1536), &[197; 12], &[false; 12], 12);
        assert_eq!((probe.inputs, probe.weights), (0, 0));
    }
}
