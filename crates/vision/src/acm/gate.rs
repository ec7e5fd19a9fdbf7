//! Gates: a small network a module, from a token to logits over numbers of learners.

/// A gate's weights, linear layers as (outputs, inputs), ReLU between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateWeights {
    /// (hidden, width).
    pub w1: Vec<f32>,
    /// (hidden).
    pub b1: Vec<f32>,
    /// (choices, hidden).
    pub w2: Vec<f32>,
    /// (choices); choice i is `min_choice + i` learners.
    pub b2: Vec<f32>,
}

impl GateWeights {
    /// Multiply-adds a token.
    pub fn macs(&self) -> u64 {
        (self.w1.len() + self.w2.len()) as u64
    }

    /// Logits of one token whose first layer, before bias and ReLU, is `first`: (choices).
    pub fn logits(&self, first: &[f32]) -> Vec<f32> {
        let hidden: Vec<f32> = first.iter().zip(&self.b1).map(|(h, b)| (h + b).max(0.0)).collect();
        let dot = |w: &[f32]| w.iter().zip(&hidden).map(|(w, h)| w * h).sum::<f32>();
        self.w2.chunks_exact(hidden.len().max(1)).zip(&self.b2).map(|(w, b)| dot(w) + b).collect()
    }
}

/// The likeliest number of learners after `shift * n` is taken from each logit; ties go to the smaller. `most` bounds it.
/// A larger shift never chooses more.
pub fn choose(logits: &[f32], min_choice: usize, shift: f64, most: usize) -> usize {
    let mut best = (f64::NEG_INFINITY, 0);
    for (i, logit) in logits.iter().enumerate() {
        let value = f64::from(*logit) - shift * i as f64;
        if value > best.0 {
            best = (value, i);
        }
    }
    (min_choice + best.1).min(most.max(min_choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_smaller_and_a_larger_shift_never_chooses_more() {
        assert_eq!(choose(&[1.0, 2.0, 2.0], 0, 0.0, 9), 1);
        assert_eq!(choose(&[1.0, 2.0, 3.0], 1, 0.0, 9), 3);
        assert_eq!(choose(&[1.0, 2.0, 3.0], 0, 0.0, 1), 1);
        let logits = [0.3, -0.2, 1.4, 0.9, 1.5];
        let chosen: Vec<usize> = (-20..20).map(|s| choose(&logits, 0, f64::from(s) / 5.0, 4)).collect();
        assert!(chosen.is_sorted_by(|a, b| a >= b) && chosen[0] == 4 && chosen[39] == 0);
    }
}
