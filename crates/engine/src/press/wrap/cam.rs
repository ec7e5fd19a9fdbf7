//! What is evicted spreads its value over the tokens after it, with a probability.
//!
//! Zhang et al., "CaM: Cache Merging for Memory-efficient LLMs Inference" (ICML 2024), as kvpress has it. All heads keep
//! the same slots, by the mean of the inner press's scores over heads. Of the evicted, the best `k` are merged, `k` being
//! the tokens read since the last action: slot i, with attention mass A_i, gives a share `v_i / m` to each of the `m`
//! kept slots that follow it (`merge_budget` at most) with probability `min(1, A_i / mean of their masses)`, head by
//! head. A slot that nothing follows is dropped. Here the mass counts the queries of the prompt too. Draws come from
//! (seed, layer, head, tokens seen, position), so a run repeats.

use std::collections::BTreeMap;
use std::sync::Arc;

use meden_stats::rng::Rng;
use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::select::Keep;
use crate::press::spec::{Build, bad};
use crate::press::watch::ATTENTION_MASS;
use crate::press::{Edits, LayerView, Needs, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cam {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Most kept slots that an evicted one is spread over.
    pub merge_budget: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Cam {
    fn default() -> Self {
        let h2o = PressSpec::H2o(crate::press::score::h2o::H2o {});
        Cam { press: Box::new(h2o), merge_budget: 32, seed: 0 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    spec: Cam,
}

impl Build for Cam {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.merge_budget == 0 {
            return Err(bad("cam", "merge_budget", 0, "at least 1 slot"));
        }
        Ok(Arc::new(Ready { inner: super::scorer("cam", &self.press)?, spec: self.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "cam"
    }

    fn needs(&self) -> Needs {
        Needs { values: true, attention_mass: true, ..self.inner.needs() }
    }

    super::passes_on!(protects, observe, layer_target, only_at_prefill_end, check);

    /// The inner press's scores, averaged over heads: one row for all.
    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.inner.score(layer, scores)?;
        // by position, since heads of another press may hold different slots
        let mut mean = BTreeMap::<u32, f64>::new();
        let share = 1.0 / layer.heads.len() as f64;
        for (row, head) in scores.rows().iter().zip(layer.heads) {
            for (&position, &score) in head.positions().iter().zip(row) {
                *mean.entry(position).or_default() += f64::from(score) * share;
            }
        }
        for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
            row.iter_mut().zip(head.positions()).for_each(|(score, position)| *score = mean[position] as f32);
        }
        Ok(())
    }

    fn edit(&self, layer: &LayerView<'_>, keep: &Keep, edits: &mut Edits) -> Result<(), EngineError> {
        let mut scores = Scores::of(layer.heads);
        let mut scored = false;
        for (number, (head, keep)) in layer.heads.iter().zip(keep).enumerate() {
            let mass = head.column(ATTENTION_MASS).ok_or_else(|| layer.missing(self.name(), "attention mass"))?;
            let mut gone: Vec<u32> = (0..head.len() as u32).filter(|slot| keep.binary_search(slot).is_err()).collect();
            if gone.len() > layer.since {
                if !scored {
                    self.score(layer, &mut scores)?;
                    scored = true;
                }
                let row = &scores.rows()[number];
                // of equals the later ones, which have had the least time to be attended to
                gone.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(b.cmp(&a)));
                gone.truncate(layer.since);
                gone.sort_unstable();
            }
            let place = ((layer.layer as u64) << 48) | ((number as u64 & 0xffff) << 32) | layer.next as u64;
            let draw = |position: u32| Rng::new(self.spec.seed ^ (u64::from(position) << 20), place).uniform();
            for (slot, value) in spread(head, (mass, keep, &gone), self.spec.merge_budget, draw) {
                edits.values.push((number, slot, value));
            }
        }
        Ok(())
    }
}

/// New values of the kept slots of a head that take something over. `gone` is merged where the draw says so.
fn spread(
    head: &HeadCache,
    (mass, keep, gone): (&[f32], &[u32], &[u32]),
    most: usize,
    draw: impl Fn(u32) -> f64,
) -> Vec<(u32, Vec<f32>)> {
    let mut changed = BTreeMap::<u32, Vec<f32>>::new();
    let mut value = vec![0.0; head.layout().value_dim()];
    for &from in gone {
        let after = keep.partition_point(|&slot| slot < from);
        let window = &keep[after..(after + most).min(keep.len())];
        if window.is_empty() {
            continue;
        }
        let mean = window.iter().map(|&slot| f64::from(mass[slot as usize])).sum::<f64>() / window.len() as f64;
        let probability = f64::from(mass[from as usize]) / mean;
        // 0 / 0: what nobody attends to is not worth keeping
        if probability.is_nan() || draw(head.positions()[from as usize]) >= probability {
            continue;
        }
        head.value(from as usize, &mut value);
        for &to in window {
            let sum = changed.entry(to).or_insert_with(|| {
                let mut own = vec![0.0; value.len()];
                head.value(to as usize, &mut own);
                own
            });
            sum.iter_mut().zip(&value).for_each(|(s, v)| *s += v / window.len() as f32);
        }
    }
    changed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_kernels::attention::{KvType, PageLayout};
    use meden_kernels::mem::Slab;

    #[test]
    fn an_evicted_value_is_shared_among_the_kept_slots_after_it() {
        let layout = PageLayout::new(2, 2, KvType::F32, KvType::F32);
        let mut head = HeadCache::new(layout, Slab::new(layout.page_bytes()));
        for slot in 0..5u32 {
            head.push(slot, &[1.0, 0.0], &[slot as f32, 10.0]);
        }
        // slot 0 precedes every kept slot, slot 4 follows them all: it has nowhere to go
        let (mass, keep, gone) = ([4.0, 1.0, 1.0, 1.0, 9.0], [1u32, 2, 3], [0u32, 4]);
        let merged = spread(&head, (&mass, &keep, &gone), 2, |_| 0.999);
        assert_eq!(merged, [(1, vec![1.0, 15.0]), (2, vec![2.0, 15.0])]);
        // a quarter of the window's mean is merged with probability 1/4
        let mass = [0.25, 1.0, 1.0, 1.0, 0.0];
        assert!(spread(&head, (&mass, &keep, &gone), 2, |_| 0.25).is_empty());
        assert_eq!(spread(&head, (&mass, &keep, &gone), 2, |_| 0.2499).len(), 2);
        assert!(spread(&head, (&[0.0; 5], &keep, &gone), 2, |_| 0.0).is_empty(), "no attention at all");
    }
}
