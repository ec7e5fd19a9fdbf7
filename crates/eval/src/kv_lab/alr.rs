//! The attention-loss map (ALR) of arXiv 2406.11430: how well a press's order of eviction agrees with the attention
//! that the next token then pays.
//!
//! For one query over n cached tokens with attention a, m tokens are dropped by the press's order (worst score first),
//! and m by the ideal order (least attention first). The difference of the attention lost, summed over m = 1..n, is the
//! head's ALR: 0 for a press that knows the future. Divided by n it is the area between two curves, which lies in
//! [0, 1] and compares between lengths.

use std::sync::Arc;

use meden_engine::{
    Budget, Control, EngineError, Hook, KvTypes, LogitRows, Model, Policy, PressSpec, Schedule, Session,
    SessionOptions, Site, SiteVisit,
};
use serde::Serialize;

use crate::error::EvalError;

/// The ALR of one head from the attention to each cached token and the press's score of it (higher is kept longer).
/// Equal scores are dropped from the higher position on, as in eviction.
pub fn of_head(attention: &[f64], scores: &[f32]) -> f64 {
    let mut by_score: Vec<usize> = (0..attention.len()).collect();
    by_score.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    let mut ideal = attention.to_vec();
    ideal.sort_by(f64::total_cmp);
    let (mut lost, mut least, mut sum) = (0.0, 0.0, 0.0);
    for (&slot, &smallest) in by_score.iter().zip(&ideal) {
        lost += attention[slot];
        least += smallest;
        sum += lost - least;
    }
    sum.max(0.0)
}

/// The map of one press.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// The press.
    pub press: PressSpec,
    /// Cached tokens.
    pub tokens: usize,
    /// ALR of each layer and query head; null for layers with a sliding window.
    pub alr: Vec<Vec<Option<f64>>>,
    /// The same divided by the tokens.
    pub area: Vec<Vec<Option<f64>>>,
    /// Mean of the areas over all heads.
    pub mean_area: f64,
    /// Mean area of each layer; null for layers with a sliding window.
    pub layer_area: Vec<Option<f64>>,
}

/// Reads `ids` but for the last with a dense cache, and asks how each press would have served the last one's query.
///
/// # Errors
/// Fewer than two tokens, a press that this model cannot carry out, what the engine refuses.
pub fn maps(
    model: &Arc<Model>,
    ids: &[u32],
    presses: &[PressSpec],
    control: &mut Control<'_>,
) -> Result<Vec<Map>, EvalError> {
    let Some((&last, cached)) = ids.split_last().filter(|(_, cached)| !cached.is_empty()) else {
        return Err(EvalError::TooShort { tokens: ids.len(), needed: 2 });
    };
    let mut queries = Queries { rows: vec![Vec::new(); model.config().layers] };
    let options = SessionOptions { kv_type: KvTypes::F32, watch: presses.to_vec(), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), options)?;
    session.forward(cached, LogitRows::None, control)?;
    let mut next = session.fork()?;
    let mut looking = Control { cancel: control.cancel, hooks: vec![&mut queries], ..Control::default() };
    next.decode(last, &mut looking)?;
    let attention = attention_of(&session, &next, &queries);
    let mut maps = Vec::with_capacity(presses.len());
    for press in presses {
        let own = press.build()?.own_budget();
        let mut policy = Policy::new(press.clone(), if own { Budget::Press } else { Budget::Ratio(0.5) });
        policy.schedule = Schedule::prefill_end();
        (policy.sinks, policy.recents) = (0, 0);
        policy.skip_layers = Some(Vec::new());
        maps.push(map(press, cached.len(), &attention, &scores(&session, &policy)?, model.config().group()));
    }
    Ok(maps)
}

/// Scores of each layer's kv heads; `None` for layers that no press may touch.
fn scores(session: &Session, policy: &Policy) -> Result<Vec<Option<Vec<Vec<f32>>>>, EvalError> {
    let config = session.model().config();
    let layer = |layer: usize| {
        if config.attention[layer].window.is_some() {
            return Ok(None);
        }
        let (scores, protect) = session.press_scores(layer, policy)?;
        let mut rows = scores.rows().to_vec();
        for (row, head) in rows.iter_mut().zip(session.cache().layers()[layer].heads()) {
            // what the press itself never drops goes last
            for (slot, score) in row.iter_mut().enumerate() {
                let newest = slot + 1 == head.len();
                if protect.covers(slot, head.positions()) && !(newest && protect.recents == 1) {
                    *score = f32::INFINITY;
                }
            }
        }
        Ok(Some(rows))
    };
    (0..config.layers).map(layer).collect()
}

/// Attention of the newest token to each token cached before it, by layer and query head; what it pays itself is left
/// out.
fn attention_of(before: &Session, after: &Session, queries: &Queries) -> Vec<Vec<Vec<f64>>> {
    let config = before.model().config();
    let (dim, group) = (config.head_dim, config.group());
    let head = |layer: usize, head: usize| -> Vec<f64> {
        let query = &queries.rows[layer][head * dim..(head + 1) * dim];
        let cache = &after.cache().layers()[layer].heads()[head / group];
        let mut key = vec![0f32; dim];
        let mut logits: Vec<f64> = (0..cache.len())
            .map(|slot| {
                cache.key(slot, &mut key);
                let dot: f64 = query.iter().zip(&key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                let logit = dot * f64::from(config.attention_scale);
                config.attention_softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
            })
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        logits.iter_mut().for_each(|l| *l = (*l - largest).exp());
        let total: f64 = logits.iter().sum();
        logits.iter_mut().for_each(|l| *l /= total);
        logits.truncate(before.cache().layers()[layer].heads()[head / group].len());
        logits
    };
    (0..config.layers).map(|layer| (0..config.q_heads).map(|h| head(layer, h)).collect()).collect()
}

fn map(
    press: &PressSpec,
    tokens: usize,
    attention: &[Vec<Vec<f64>>],
    scores: &[Option<Vec<Vec<f32>>>],
    group: usize,
) -> Map {
    let alr: Vec<Vec<Option<f64>>> = attention
        .iter()
        .zip(scores)
        .map(|(heads, scores)| {
            let of = |(head, a): (usize, &Vec<f64>)| scores.as_ref().map(|s| of_head(a, &s[head / group]));
            heads.iter().enumerate().map(of).collect()
        })
        .collect();
    let n = tokens as f64;
    let area: Vec<Vec<Option<f64>>> = alr.iter().map(|row| row.iter().map(|v| v.map(|v| v / n)).collect()).collect();
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let layer_area = area.iter().map(|row| mean(row.iter().flatten().copied().collect())).collect();
    let mean_area = mean(area.iter().flatten().flatten().copied().collect()).unwrap_or(0.0);
    Map { press: press.clone(), tokens, alr, area, mean_area, layer_area }
}

/// Takes the queries of the newest token at every layer.
struct Queries {
    rows: Vec<Vec<f32>>,
}

impl Hook for Queries {
    fn name(&self) -> &str {
        "alr"
    }

    fn wants(&self, site: Site, _layer: usize) -> bool {
        site == Site::QRot
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        self.rows[visit.layer] = visit.rows[visit.rows.len() - visit.width..].to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_press_that_knows_the_attention_loses_nothing() {
        let attention = [0.1, 0.4, 0.05, 0.25, 0.2];
        let scores: Vec<f32> = attention.iter().map(|&a| a as f32).collect();
        assert!(of_head(&attention, &scores).abs() < 1e-12);
    }

    #[test]
    fn the_worst_order_loses_most_and_by_hand_it_is_right() {
        let attention = [0.5, 0.3, 0.2];
        // dropped first to last: 0.5, 0.3, 0.2 against the ideal 0.2, 0.3, 0.5
        let worst = of_head(&attention, &[0.0, 1.0, 2.0]);
        assert!((worst - ((0.5 - 0.2) + (0.8 - 0.5) + 0.0)).abs() < 1e-12);
        for scores in [[0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [2.0, 0.0, 1.0]] {
            let other = of_head(&attention, &scores);
            assert!((0.0..worst + 1e-12).contains(&other), "{other}");
        }
    }

    #[test]
    fn equal_scores_drop_the_newest_first() {
        assert!((of_head(&[0.9, 0.1], &[0.0, 0.0])).abs() < 1e-12);
        assert!((of_head(&[0.1, 0.9], &[0.0, 0.0]) - 0.8).abs() < 1e-12);
        assert_eq!(of_head(&[], &[]), 0.0);
    }
}
