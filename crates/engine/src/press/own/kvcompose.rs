//! Keep what a second reading of the text attends to, with composite tokens deciding how much a layer keeps.
//!
//! Akulov et al., "KVCompose: Efficient Structured KV Cache Compression with Composite Tokens", arXiv 2509.05165. The
//! text is read once more over its own cache; a slot's score is the largest attention any of these queries gives it,
//! averaged over the group of its head, plus the mean of that over the heads of the layer. Structured: the scores of
//! each head are sorted, and the mean over heads of the scores of one rank is a composite token; the best composite
//! tokens of all layers say how many slots a layer keeps, each head its own best, the first layer as if it were the
//! best of all at every rank. Otherwise every head takes part with its own scores.

use meden_kernels::attention::{HeadView, Reduce};
use serde::{Deserialize, Serialize};

use super::kvzip::share_out;
use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::replay::{Reading, Text, column_name, columns_of, no_room, raise};
use crate::press::spec::ready;
use crate::press::wrap::adakv::check_scores;
use crate::press::{LayerView, Needs, Piece, Press, Scope, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvCompose {
    /// The heads of a layer keep the same number; otherwise each keeps what its scores earn.
    pub structured: bool,
}

impl Default for KvCompose {
    fn default() -> Self {
        KvCompose { structured: true }
    }
}

ready!(KvCompose);

impl Press for KvCompose {
    fn name(&self) -> &'static str {
        "kvcompose"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, replay: true, ..Needs::default() }
    }

    fn only_at_prefill_end(&self) -> Option<&'static str> {
        Some("it reads the whole text a second time before it evicts")
    }

    fn readings(&self, text: &Text<'_>) -> Result<Vec<Reading>, EngineError> {
        let n = text.ids.len();
        if text.room < n {
            return Err(no_room("kvcompose", n, text));
        }
        Ok(vec![Reading { ids: text.ids.to_vec(), chunk: 0..n as u32, first: n as u32 }])
    }

    fn observe_again(&self, reading: &Reading, piece: &Piece<'_>, cache: &mut LayerCache) -> Result<(), EngineError> {
        let views: Vec<HeadView<'_>> = cache.heads().iter().map(HeadCache::view).collect();
        let columns = columns_of(piece, &views, None, Reduce::Max)?;
        let group = piece.model.config().group();
        for (number, head) in cache.heads_mut().iter_mut().enumerate() {
            let text = head.positions().partition_point(|&p| p < reading.first);
            for (g, column) in columns[number * group..(number + 1) * group].iter().enumerate() {
                raise(head, column_name(self, g), column[..text].iter().copied().enumerate());
            }
        }
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let group = layer.group();
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            for g in 0..group {
                let column = head.column(&column_name(self, g)).ok_or_else(|| layer.missing("kvcompose", "replay"))?;
                row.iter_mut().zip(column).for_each(|(score, weight)| *score += weight / group as f32);
            }
        }
        add_mean_over_heads(layer.heads, scores);
        Ok(())
    }

    fn scope(&self) -> Scope {
        Scope::Cache
    }

    fn share_out(&self, layers: &[(LayerView<'_>, Scores)], counts: &mut [Vec<usize>]) -> Result<(), EngineError> {
        if !self.structured {
            return share_out(layers, counts, (false, 0));
        }
        for (layer, scores) in layers {
            check_scores(layer, scores)?;
        }
        let total = layers.iter().map(|(layer, _)| layer.target).sum();
        let mut composite: Vec<Vec<f32>> = layers.iter().map(|(_, scores)| composite_tokens(scores)).collect();
        let longest = composite.iter().map(Vec::len).max().unwrap_or(0);
        let best: Vec<f32> = (0..longest)
            .map(|rank| composite.iter().filter_map(|c| c.get(rank)).copied().fold(f32::NEG_INFINITY, f32::max))
            .collect();
        if let Some(first) = composite.first_mut() {
            let slots = first.len();
            first.copy_from_slice(&best[..slots]);
        }
        let floors: Vec<usize> = layers
            .iter()
            .map(|(layer, _)| {
                let forced =
                    |head: &HeadCache| (0..head.len()).filter(|&s| layer.protect.covers(s, head.positions())).count();
                layer.heads.iter().map(forced).max().unwrap_or(0).max(1)
            })
            .collect();
        for (counts, kept) in counts.iter_mut().zip(composite_counts(&composite, &floors, total)) {
            counts.fill(kept);
        }
        Ok(())
    }
}

/// Add to each score the mean over the heads that hold the same position.
fn add_mean_over_heads(heads: &[HeadCache], scores: &mut Scores) {
    let last = heads.iter().filter_map(|h| h.positions().last()).max().map_or(0, |&p| p as usize + 1);
    let (mut sums, mut counts) = (vec![0f32; last], vec![0f32; last]);
    for (row, head) in scores.rows().iter().zip(heads) {
        for (score, &position) in row.iter().zip(head.positions()) {
            sums[position as usize] += score;
            counts[position as usize] += 1.0;
        }
    }
    for (row, head) in scores.rows_mut().iter_mut().zip(heads) {
        for (score, &position) in row.iter_mut().zip(head.positions()) {
            *score += sums[position as usize] / counts[position as usize];
        }
    }
}

/// The mean over heads of the scores of each rank, highest first, as long as the shortest head.
fn composite_tokens(scores: &Scores) -> Vec<f32> {
    let sorted: Vec<Vec<f32>> = scores
        .rows()
        .iter()
        .map(|row| {
            let mut row = row.clone();
            row.sort_unstable_by(|a, b| b.total_cmp(a));
            row
        })
        .collect();
    let slots = sorted.iter().map(Vec::len).min().unwrap_or(0);
    (0..slots).map(|rank| sorted.iter().map(|row| row[rank]).sum::<f32>() / sorted.len() as f32).collect()
}

/// How many of the best `total` composite tokens are each layer's; a layer has its floor in any case. Equal ones go to
/// the lower rank, then to the earlier layer.
fn composite_counts(composite: &[Vec<f32>], floors: &[usize], total: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = floors.iter().zip(composite).map(|(&floor, c)| floor.min(c.len())).collect();
    let mut free: Vec<(usize, usize)> = counts
        .iter()
        .zip(composite)
        .enumerate()
        .flat_map(|(l, (&from, c))| (from..c.len()).map(move |r| (l, r)))
        .collect();
    let wanted = total.saturating_sub(counts.iter().sum()).min(free.len());
    free.sort_by(|&(la, ra), &(lb, rb)| {
        composite[lb][rb].total_cmp(&composite[la][ra]).then(ra.cmp(&rb)).then(la.cmp(&lb))
    });
    free[..wanted].iter().for_each(|&(layer, _)| counts[layer] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composite_tokens_average_ranks_and_the_best_are_counted_by_layer() {
        let scores = Scores::from_rows(vec![vec![1.0, 5.0, 3.0], vec![0.0, 2.0, 4.0]]);
        assert_eq!(composite_tokens(&scores), [4.5, 2.5, 0.5]);
        let composite = [vec![9.0, 8.0, 7.0], vec![6.0, 5.0, 4.0]];
        assert_eq!(composite_counts(&composite, &[1, 1], 4), [3, 1]);
        assert_eq!(composite_counts(&composite, &[1, 2], 4), [2, 2], "a floor is paid for by the others");
        assert_eq!(composite_counts(&[vec![1.0; 3], vec![1.0; 3]], &[0, 0], 3), [2, 1], "ties: rank, then layer");
    }
}
