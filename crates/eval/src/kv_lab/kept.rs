//! Which tokens each layer and head kept.

use meden_engine::Session;
use serde::Serialize;

/// Kept positions of a session's cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kept {
    /// Tokens seen.
    pub tokens: usize,
    /// For each layer and kv head: original positions, ascending.
    pub positions: Vec<Vec<Vec<u32>>>,
    /// Layers with a sliding window, which no press touches.
    pub sliding: Vec<bool>,
    /// Layers that the press leaves alone.
    pub skipped: Vec<bool>,
    /// For each token: the share of heads of full-attention layers that keep it.
    pub share: Vec<f64>,
}

impl Kept {
    /// Looks at a session.
    pub fn of(session: &Session) -> Kept {
        let stats = session.stats();
        let layers = session.cache().layers();
        let positions: Vec<Vec<Vec<u32>>> =
            layers.iter().map(|l| l.heads().iter().map(|h| h.positions().to_vec()).collect()).collect();
        let sliding: Vec<bool> = layers.iter().map(|l| l.window().is_some()).collect();
        let mut share = vec![0.0; session.seen()];
        let full = positions.iter().zip(&sliding).filter(|(_, slides)| !**slides).map(|(heads, _)| heads);
        let heads: usize = full.clone().map(Vec::len).sum();
        for head in full.flatten() {
            for &position in head {
                // a press that renumbers keeps no original positions beyond the text
                if let Some(share) = share.get_mut(position as usize) {
                    *share += 1.0 / heads as f64;
                }
            }
        }
        let skipped = stats.layers.iter().map(|l| l.skipped).collect();
        Kept { tokens: session.seen(), positions, sliding, skipped, share }
    }

    /// The kept positions of a head as runs `[first, length]`, which are short to write.
    pub fn runs(&self, layer: usize, head: usize) -> Vec<[u32; 2]> {
        let mut runs: Vec<[u32; 2]> = Vec::new();
        for &position in &self.positions[layer][head] {
            match runs.last_mut() {
                Some(run) if run[0] + run[1] == position => run[1] += 1,
                _ => runs.push([position, 1]),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_name_every_position_once() {
        let positions = vec![vec![vec![0, 1, 2, 7, 9, 10], vec![]]];
        let kept = Kept { tokens: 11, positions, sliding: vec![false], skipped: vec![false], share: vec![] };
        assert_eq!(kept.runs(0, 0), [[0, 3], [7, 1], [9, 2]]);
        assert!(kept.runs(0, 1).is_empty());
    }
}
