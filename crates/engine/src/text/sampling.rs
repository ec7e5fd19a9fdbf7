//! From logits to the next token.
//!
//! The order, which matters and differs between programs, is that of the transformers library: repetition penalty,
//! frequency and presence penalty, logit bias, temperature, top-k, top-p, min-p. Temperature 0 takes the best token
//! after the penalties and the bias; the lowest id of equals, so that a run can be repeated anywhere.
//!
//! Random numbers are a function of the seed and of how many were drawn, whatever the machine. Nothing sorts the
//! whole vocabulary.

use std::collections::BTreeMap;

use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::error::TextError;
use super::logits::{RUN, best, best_ids, by_logit, exp, first_of, largest, sum_exp, sum_run};

/// The stream of random numbers that samplers draw from, so that other users of the same seed do not share it.
const STREAM: u64 = 0x7361_6d70;
/// The most log-probabilities a step that may be asked for.
const LOGPROBS_MAX: usize = 1000;
/// How many candidates top-p looks at first; their number then grows eightfold.
const TOP_P_FIRST: usize = 64;

/// How the next token is chosen. Every default is "off"; an unknown field in a file is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Divisor of the logits, 0 to 100. 0, the default: always the best token.
    pub temperature: f32,
    /// Only the k best tokens; 0: all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability, above 0 to 1 (Holtzman et al. 2020,
    /// <https://arxiv.org/abs/1904.09751>); 1: all.
    pub top_p: f32,
    /// Only tokens with at least this share of the best one's probability, 0 to 1 (Nguyen et al. 2024,
    /// <https://arxiv.org/abs/2407.01082>); 0: all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens that are there already, above 0 to 100
    /// (Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>); 1: none.
    pub repetition_penalty: f32,
    /// Taken off the logit of every token that is there already, -100 to 100.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time it is there already, -100 to 100.
    pub frequency_penalty: f32,
    /// How many of the last tokens the three penalties look at; 0: all of them.
    pub penalty_last_n: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Added to the logits of single tokens; minus infinity bans one.
    pub logit_bias: BTreeMap<u32, f32>,
    /// How many of the best tokens are reported with their log-probabilities, at most 1000.
    pub logprobs: usize,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        SamplingConfig {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: 64,
            seed: 0,
            logit_bias: BTreeMap::new(),
            logprobs: 0,
        }
    }
}

impl SamplingConfig {
    /// Errors with the first field that is out of its range.
    pub fn check(&self) -> Result<(), TextError> {
        type Test = fn(f32) -> bool;
        let fields: [(&str, f32, Test, &str); 6] = [
            ("temperature", self.temperature, |x| (0.0..=100.0).contains(&x), "0 (greedy) to 100"),
            ("top_p", self.top_p, |x| x > 0.0 && x <= 1.0, "above 0, up to 1 (off)"),
            ("min_p", self.min_p, |x| (0.0..=1.0).contains(&x), "0 (off) to 1"),
            ("repetition_penalty", self.repetition_penalty, |x| x > 0.0 && x <= 100.0, "above 0, up to 100; 1 is off"),
            ("presence_penalty", self.presence_penalty, |x| x.abs() <= 100.0, "-100 to 100; 0 is off"),
            ("frequency_penalty", self.frequency_penalty, |x| x.abs() <= 100.0, "-100 to 100; 0 is off"),
        ];
        for (field, value, allowed, range) in fields {
            if !allowed(value) {
                return Err(TextError::setting(field, value, range));
            }
        }
        if self.logprobs > LOGPROBS_MAX {
            return Err(TextError::setting("logprobs", self.logprobs, "0 to 1000"));
        }
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, b)| !(**b < f32::INFINITY)) {
            return Err(TextError::setting(&format!("logit_bias[{id}]"), bias, "numbers, and -inf to ban a token"));
        }
        Ok(())
    }

    fn edits(&self) -> bool {
        self.penalises() || !self.logit_bias.is_empty()
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A chosen token. Log-probabilities are natural, and those of the model's own distribution: before penalties, bias,
/// temperature and truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The best tokens, best first, as many as [`SamplingConfig::logprobs`].
    pub top: Vec<(u32, f32)>,
}

/// Chooses tokens. Holds the state of its random numbers and buffers that are reused.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    rng: Rng,
    edited: Vec<f32>,
    recent: Vec<u32>,
    candidates: Vec<u32>,
    sums: Vec<f64>,
}

impl Sampler {
    /// A sampler at the beginning of its random numbers; errors when a setting is out of its range.
    pub fn new(config: SamplingConfig) -> Result<Sampler, TextError> {
        config.check()?;
        let rng = Rng::new(config.seed, STREAM);
        let (edited, recent, candidates, sums) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Sampler { config, rng, edited, recent, candidates, sums })
    }

    /// The settings.
    pub fn config(&self) -> &SamplingConfig {
        &self.config
    }

    /// Chooses the next token. `logits`: one row, by token id. `history`: the tokens so far, oldest first, which only
    /// the penalties look at.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<Sampled, TextError> {
        let raw_largest = largest(logits)?;
        let mut edited = std::mem::take(&mut self.edited);
        let chosen = if self.config.edits() {
            edited.clear();
            edited.extend_from_slice(logits);
            self.edit(&mut edited, history).and_then(|()| self.choose(&edited, largest(&edited)?))
        } else {
            self.choose(logits, raw_largest)
        };
        self.edited = edited;
        let id = chosen?;
        let normaliser = raw_largest + sum_exp(logits, raw_largest, 1.0).ln() as f32;
        let top = best(logits, self.config.logprobs);
        let top = top.into_iter().map(|(id, logit)| (id, logit - normaliser)).collect();
        Ok(Sampled { id, logprob: logits[id as usize] - normaliser, top })
    }

    /// Penalties, then bias.
    fn edit(&mut self, logits: &mut [f32], history: &[u32]) -> Result<(), TextError> {
        let config = &self.config;
        let outside = |field: &str, id: u32| {
            let allowed = format!("ids below the {} of the vocabulary", logits.len());
            TextError::setting(field, id, &allowed)
        };
        let first = match config.penalty_last_n {
            0 => 0,
            n => history.len().saturating_sub(n),
        };
        self.recent.clear();
        if config.penalises() {
            self.recent.extend_from_slice(&history[first..]);
            self.recent.sort_unstable();
        }
        if let Some(&id) = self.recent.last().filter(|&&id| id as usize >= logits.len()) {
            return Err(outside("the history's token", id));
        }
        if let Some((&id, _)) = config.logit_bias.last_key_value().filter(|(id, _)| **id as usize >= logits.len()) {
            return Err(outside("logit_bias", id));
        }
        for run in self.recent.chunk_by(|a, b| a == b) {
            let logit = &mut logits[run[0] as usize];
            let factor = config.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
            *logit -= config.presence_penalty + config.frequency_penalty * run.len() as f32;
        }
        for (&id, bias) in &config.logit_bias {
            logits[id as usize] += bias;
        }
        Ok(())
    }

    /// A token by the edited logits.
    fn choose(&mut self, logits: &[f32], largest: f32) -> Result<u32, TextError> {
        let config = &self.config;
        // A temperature so small that its inverse is not finite can only mean the best token.
        let scale = config.temperature.recip();
        if !scale.is_finite() {
            return Ok(first_of(logits, largest));
        }
        let draw = self.rng.uniform();
        let weight = |id: u32| f64::from(exp((logits[id as usize] - largest) * scale));
        if config.top_k == 0 && config.top_p == 1.0 && config.min_p == 0.0 {
            return Ok(pick_any(logits, (largest, scale), draw, &mut self.sums));
        }
        let ids = &mut self.candidates;
        ids.clear();
        let total = if config.top_k > 0 && config.top_k < logits.len() {
            best_ids(logits, config.top_k, ids);
            ids.iter().map(|&id| weight(id)).sum()
        } else {
            ids.extend(0..logits.len() as u32);
            sum_exp(logits, largest, scale)
        };
        // Tokens below this share of the best one's weight go: min-p says so, and top-p cannot need a token so light
        // that all of its kind together do not reach the mass that top-p leaves out.
        let spare = f64::from(1.0 - config.top_p) * total / logits.len() as f64;
        let least = f64::from(config.min_p).max(spare).max(f64::MIN_POSITIVE);
        let floor = largest + (least.ln() / f64::from(scale)) as f32;
        ids.retain(|&id| logits[id as usize] >= floor);
        let mass = if config.top_p < 1.0 { f64::from(config.top_p) * total } else { f64::INFINITY };
        keep_mass(ids, &by_logit(logits), mass, weight);
        let left: f64 = ids.iter().map(|&id| weight(id)).sum();
        let chosen = pick(ids.iter().copied(), draw * left, weight);
        Ok(chosen.unwrap_or_else(|| first_of(logits, largest)))
    }
}

/// A token of the whole vocabulary: first the run of it in which the running sum passes `draw` of the total, then the
/// token in that run.
fn pick_any(logits: &[f32], (largest, scale): (f32, f32), draw: f64, sums: &mut Vec<f64>) -> u32 {
    sums.clear();
    sums.extend(logits.chunks(RUN).map(|run| sum_run(run, largest, scale)));
    let mut target = draw * sums.iter().sum::<f64>();
    let last = sums.iter().rposition(|&sum| sum > 0.0).unwrap_or(0);
    let passed = sums[..last].iter().position(|&sum| {
        let here = target < sum;
        target -= if here { 0.0 } else { sum };
        here
    });
    let start = passed.unwrap_or(last) * RUN;
    let ids = start as u32..(start + RUN).min(logits.len()) as u32;
    let weight = |id: u32| f64::from(exp((logits[id as usize] - largest) * scale));
    pick(ids, target, weight).unwrap_or_else(|| first_of(logits, largest))
}

/// Sorts the best candidates to the front and keeps the fewest whose weights reach `mass` together; all, sorted, when
/// they do not.
fn keep_mass(
    ids: &mut Vec<u32>,
    order: &impl Fn(&u32, &u32) -> std::cmp::Ordering,
    mass: f64,
    weight: impl Fn(u32) -> f64,
) {
    let mut size = if mass.is_finite() { TOP_P_FIRST } else { ids.len() };
    loop {
        if size < ids.len() {
            ids.select_nth_unstable_by(size, order);
        }
        let head = size.min(ids.len());
        ids[..head].sort_unstable_by(order);
        let mut sum = 0.0;
        let reached = ids[..head].iter().position(|&id| {
            sum += weight(id);
            sum >= mass
        });
        if let Some(last) = reached {
            ids.truncate(last + 1);
            return;
        }
        if head == ids.len() {
            return;
        }
        size *= 8;
    }
}

/// The first of `ids` at which the weights' running sum passes `target`; the last with any weight when rounding keeps
/// the sum below it.
fn pick(ids: impl Iterator<Item = u32>, target: f64, weight: impl Fn(u32) -> f64) -> Option<u32> {
    let (mut sum, mut last) = (0.0, None);
    for id in ids {
        let w = weight(id);
        if w > 0.0 {
            last = Some(id);
            sum += w;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
