//! Perplexity: exp of the mean negative log-probability (natural logarithm) that a model gives to each token of a text,
//! with the tokens before it given.
//!
//! Two regimes, since they answer two questions:
//!
//! - **Windows** ([`Regime::Windows`]): the text is cut into windows of `context` tokens that start `stride` tokens
//!   apart. Each is read into an empty cache, and only the tokens that no earlier window has judged count. How good is
//!   the model on texts of this length? With `stride = context` windows do not overlap: the quickest, but their first
//!   tokens have nothing before them and are not judged.
//! - **Running** ([`Regime::Running`]): one cache reads the whole text, and a press with the schedule `decode_every:N`
//!   shrinks it on the way, as in the language-modelling experiments of arXiv 2406.11430. How good is the model with a
//!   cache that never grows past its budget?
//!
//! **The interval.** Neighbouring tokens of a text are surprising together, so their losses are no independent values
//! and the usual standard error is too small. The losses are cut into about 30 runs of equal length, at least
//! [`SHORTEST_RUN`] tokens each, and the means of the runs are treated as independent ([`meden_stats::interval`],
//! Student's t). The interval of the perplexity is exp of that of the mean, so it is not symmetric.

mod windows;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use meden_engine::session::control::ProgressFn;
use meden_engine::{CacheStats, Control, EngineError, Hook, LogitRows, Model, Session, SessionOptions};
use meden_stats::Interval;
use meden_stats::{interval, moments};
use serde::Serialize;

use crate::error::EvalError;
use windows::Window;

/// Shortest run of tokens whose mean counts as one value for the interval.
pub const SHORTEST_RUN: usize = 16;
/// How many runs the losses are cut into when there are enough of them.
const RUNS: usize = 30;

/// How the text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// Windows of `context` tokens, each in an empty cache, starting `stride` tokens apart.
    Windows {
        /// Tokens in a window, at least 2.
        context: usize,
        /// Tokens between the starts of two windows, in `1..=context`.
        stride: usize,
    },
    /// The whole text in one cache.
    Running,
}

/// What a measurement needs besides the text.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the text is read.
    pub regime: Regime,
    /// Element type of the cache and its press.
    pub session: SessionOptions,
    /// Confidence level of the interval, in (0, 1).
    pub level: f64,
}

/// Companions of a measurement; `Watch::default()` has none.
#[derive(Default)]
pub struct Watch<'a> {
    /// Called with tokens read and tokens to read in all (windows that overlap read tokens again).
    pub progress: Option<ProgressFn<'a>>,
    /// Set to true from another thread to stop.
    pub cancel: Option<&'a AtomicBool>,
    /// Sees, or edits, what every window is read as.
    pub hook: Option<&'a mut dyn Hook>,
}

/// A measured perplexity.
#[derive(Clone, Debug, Serialize)]
pub struct Perplexity {
    /// exp of the mean loss.
    pub perplexity: f64,
    /// Ends of the perplexity's interval; `None` for fewer than two runs of tokens.
    pub interval: Option<[f64; 2]>,
    /// Confidence level of the interval.
    pub level: f64,
    /// Mean negative log-probability a token, in nats.
    pub mean_nll: f64,
    /// Tokens judged: all but the first of the text (and of each window where windows do not overlap).
    pub tokens: usize,
    /// Tokens read, those that windows read again included.
    pub tokens_read: usize,
    /// Share of the judged tokens that were the model's first choice.
    pub top1: f64,
    /// Most bytes of cache pages in use at once.
    pub peak_page_bytes: u64,
    /// The cache at the end of the last window.
    pub cache: CacheStats,
    /// Negative log-probability of each judged token, in the order of the text.
    #[serde(skip)]
    pub nll: Vec<f32>,
}

/// Measures the perplexity of `ids` under `model`. The first token is given and not judged.
///
/// # Errors
/// Fewer than two tokens, a context or stride out of range, and whatever the engine refuses: a text longer than the
/// model's context in the running regime, an impossible press, cancellation.
pub fn measure(
    model: &Arc<Model>,
    ids: &[u32],
    options: &Options,
    mut watch: Watch<'_>,
) -> Result<Perplexity, EvalError> {
    if ids.len() < 2 {
        return Err(EvalError::TooShort { tokens: ids.len(), needed: 2 });
    }
    if !(options.level > 0.0 && options.level < 1.0) {
        return Err(EvalError::Setting {
            field: "confidence level",
            value: options.level.to_string(),
            allowed: "more than 0 and less than 1".to_owned(),
        });
    }
    let windows = windows::plan(ids.len(), options.regime)?;
    let total = windows.iter().map(|w| w.end - w.start).sum();
    let mut losses = Losses::default();
    let (mut read, mut peak) = (0, 0);
    let mut last = None;
    for window in &windows {
        let mut report = |done: usize, _: usize| {
            if let Some(progress) = watch.progress.as_mut() {
                progress(read + done, total);
            }
        };
        let mut control = Control { progress: Some(&mut report), cancel: watch.cancel, ..Control::default() };
        if let Some(hook) = watch.hook.as_mut() {
            control.hooks.push(&mut **hook);
        }
        let session = read_window(model, ids, window, options, &mut control, &mut losses)?;
        read += window.end - window.start;
        let stats = session.stats();
        peak = peak.max(stats.peak_page_bytes);
        last = Some(stats);
    }
    let cache = last.ok_or(EvalError::TooShort { tokens: ids.len(), needed: 2 })?;
    Ok(losses.summary(options.level, read, peak, cache))
}

/// Reads one window into an empty cache, token by token under a read policy, and takes in the losses of the tokens that it judges.
fn read_window(
    model: &Arc<Model>,
    ids: &[u32],
    window: &Window,
    options: &Options,
    control: &mut Control<'_>,
    losses: &mut Losses,
) -> Result<Session, EvalError> {
    let mut session = Session::new(Arc::clone(model), options.session.clone())?;
    let mut wrong = None;
    let (text, cancel) = (&ids[window.start..window.end], control.cancel);
    // What a read policy leaves out it leaves out of tokens that are read alone.
    let piece = if options.session.read.is_some() { 1 } else { text.len() };
    for first in (0..text.len()).step_by(piece.max(1)) {
        let mut report = |done: usize, _: usize| {
            if let Some(progress) = control.progress.as_mut() {
                progress(first + done, text.len());
            }
        };
        let mut part = Control { progress: Some(&mut report), cancel, ..Control::default() };
        part.hooks.extend(control.hooks.iter_mut().map(|hook| &mut **hook as &mut dyn Hook));
        session.score(&text[first..text.len().min(first + piece)], LogitRows::All, &mut part, &mut |row, logits| {
            // Row i of the window predicts the text's token start + i + 1.
            let target = window.start + first + row + 1;
            if target >= window.judge_from && target < window.end && wrong.is_none() {
                wrong = losses.take(target, ids[target], logits).err();
            }
            Ok::<(), EngineError>(())
        })?;
    }
    match wrong {
        Some(error) => Err(error),
        None => Ok(session),
    }
}

/// Losses gathered so far.
#[derive(Default)]
struct Losses {
    nll: Vec<f32>,
    first_choices: usize,
}

impl Losses {
    fn take(&mut self, position: usize, id: u32, logits: &[f32]) -> Result<(), EvalError> {
        let target = logits.get(id as usize).copied().unwrap_or(f32::NAN);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&l| f64::from((l - largest).exp())).sum();
        let nll = f64::from(largest) + total.ln() - f64::from(target);
        if !nll.is_finite() {
            return Err(EvalError::NoProbability { position, logit: target });
        }
        self.first_choices += usize::from(target == largest);
        self.nll.push(nll as f32);
        Ok(())
    }

    fn summary(self, level: f64, tokens_read: usize, peak_page_bytes: u64, cache: CacheStats) -> Perplexity {
        let values: Vec<f64> = self.nll.iter().map(|&v| f64::from(v)).collect();
        let mean_nll = moments::mean(&values);
        let runs = (values.len() / SHORTEST_RUN).min(RUNS);
        let interval = interval::batch_means(&values, runs, level).map(|i: Interval| i.map(f64::exp));
        Perplexity {
            perplexity: mean_nll.exp(),
            interval: interval.map(|i| [i.low, i.high]),
            level,
            mean_nll,
            tokens: values.len(),
            tokens_read,
            top1: self.first_choices as f64 / values.len() as f64,
            peak_page_bytes,
            cache,
            nll: self.nll,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_the_negative_log_probability_even_for_huge_logits() {
        let mut losses = Losses::default();
        losses.take(1, 1, &[1000.0, 1000.0, -1e30]).unwrap();
        assert!((losses.nll[0] - 2f32.ln()).abs() < 1e-6);
        losses.take(2, 0, &[0.0, 3.0]).unwrap();
        assert!((f64::from(losses.nll[1]) - (1.0 + 3f64.exp()).ln()).abs() < 1e-6);
        assert_eq!(losses.first_choices, 1);
    }

    #[test]
    fn a_token_without_probability_is_an_error_and_not_an_infinite_mean() {
        let mut losses = Losses::default();
        for logits in [&[f32::NAN, 0.0][..], &[f32::NEG_INFINITY, 0.0], &[]] {
            let error = losses.take(7, 0, logits).unwrap_err();
            assert!(matches!(error, EvalError::NoProbability { position: 7, .. }), "{error}");
        }
    }
}
