//! The logit lens: what the model would say if it stopped here.
//!
//! A row of the residual stream goes through the final norm and the unembedding (nostalgebraist, 2020). On the last
//! stream this is the model's own output, bit for bit, since the same kernels run. What a sublayer adds (`attn_out`,
//! `mlp_out`) is not a stream: it is scaled as the last stream's norm scales it (frozen), so that the logits of all
//! contributions add up. A [`TunedLens`] first moves a stream to where the last one would be.

use meden_engine::{Control, Model, Session, Site};
use serde::Serialize;

use crate::capture::{Captured, RowOf, Selection, capture};
use crate::error::LensError;
use crate::place::Place;
use crate::probability::{Distance, TokenStanding, distance, entropy, log_sum_exp, standing, top};
use crate::tuned::TunedLens;

/// Positions whose logits are held at once.
const BLOCK: usize = 16;

/// What is read of each row.
#[derive(Clone, Debug, Default)]
pub struct LensOptions {
    /// How many of the likeliest tokens.
    pub top_k: usize,
    /// Tokens whose rank and probability are wanted.
    pub tokens: Vec<u32>,
}

/// One row through the lens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// The likeliest tokens.
    pub top: Vec<TokenStanding>,
    /// The tokens that were asked about, in the order they were asked.
    pub tokens: Vec<TokenStanding>,
    /// Entropy in nats.
    pub entropy: f64,
    /// How far it is from what the model says in the end.
    #[serde(flatten)]
    pub from_final: Distance,
}

/// Some places of some positions through the lens.
#[derive(Clone, Debug, Serialize)]
pub struct LensTable {
    /// Places, in the order the data flows.
    pub places: Vec<Place>,
    /// Where the rows come from.
    pub rows: Vec<RowOf>,
    /// `[place][row]`.
    pub readings: Vec<Vec<Reading>>,
    /// What the model says in the end, one a row.
    pub last: Vec<Reading>,
    /// For each row, the first layer from which on the likeliest token of `resid_post` is that of the end; only layers
    /// that were looked at count. `None` where no looked-at layer says it.
    pub decision_layer: Vec<Option<usize>>,
}

/// The lens of a model.
pub struct LogitLens<'a> {
    model: &'a Model,
    tuned: Option<&'a TunedLens>,
}

impl<'a> LogitLens<'a> {
    /// The plain lens.
    pub fn new(model: &'a Model) -> LogitLens<'a> {
        LogitLens { model, tuned: None }
    }

    /// A lens with trained translators.
    ///
    /// # Errors
    /// Translators of another width or depth.
    pub fn tuned(model: &'a Model, tuned: &'a TunedLens) -> Result<LogitLens<'a>, LensError> {
        tuned.check(model)?;
        Ok(LogitLens { model, tuned: Some(tuned) })
    }

    /// Logits `(rows, vocab)` of rows `(rows, hidden)` of a place. `last` are the rows of the last `resid_post` at the
    /// same positions, whose norm scales contributions.
    ///
    /// # Errors
    /// A place that is no stream and no contribution.
    pub fn logits(&self, place: Place, rows: &[f32], last: &[f32]) -> Result<Vec<f32>, LensError> {
        let (model, c) = (self.model, self.model.config());
        let mut normed = match place.site {
            Site::ResidPre | Site::ResidMid | Site::ResidPost => {
                let mut rows = match self.tuned {
                    Some(tuned) => tuned.translate(model, place, rows)?,
                    None => rows.to_vec(),
                };
                model.apply_final_norm(&mut rows);
                rows
            }
            Site::FinalNorm => rows.to_vec(),
            Site::AttnOut | Site::MlpOut if self.tuned.is_none() => frozen(model, rows, last),
            _ => return Err(LensError::setting("site", place, self.allowed())),
        };
        let mut logits = vec![0f32; normed.len() / c.hidden * c.vocab];
        model.unembed_rows(&normed, &mut logits)?;
        normed.clear();
        Ok(logits)
    }

    fn allowed(&self) -> &'static str {
        match self.tuned {
            Some(_) => "a tuned lens reads resid_pre, resid_post and final_norm",
            None => "the logit lens reads resid_pre, resid_mid, resid_post, attn_out, mlp_out and final_norm",
        }
    }

    /// Reads a prompt behind a session and looks at the selected places of it.
    ///
    /// # Errors
    /// Places that a lens does not read, tokens outside the vocabulary, what [`capture`] refuses.
    pub fn read(
        &self,
        session: &Session,
        ids: &[u32],
        selection: &Selection,
        options: &LensOptions,
        control: &mut Control<'_>,
    ) -> Result<LensTable, LensError> {
        let c = self.model.config();
        if let Some(&id) = options.tokens.iter().find(|&&id| id as usize >= c.vocab) {
            return Err(meden_engine::EngineError::TokenId { id, vocab: c.vocab }.into());
        }
        for &place in &selection.places {
            let streams = matches!(place.site, Site::ResidPre | Site::ResidPost | Site::FinalNorm);
            let others = matches!(place.site, Site::ResidMid | Site::AttnOut | Site::MlpOut);
            if !(streams || others && self.tuned.is_none()) {
                return Err(LensError::setting("site", place, self.allowed()));
            }
        }
        let end = Place::new(Site::ResidPost, c.layers - 1);
        let mut wanted = selection.places.clone();
        wanted.push(end);
        let wanted = Selection::new(wanted, selection.positions.clone());
        let captured = capture(session, &[ids.to_vec()], &wanted, control)?;
        self.table(&captured, &selection.places, options)
    }

    /// Looks at captured rows; the last `resid_post` has to be among them.
    ///
    /// # Errors
    /// Places that were not captured or that a lens does not read.
    pub fn table(&self, captured: &Captured, places: &[Place], options: &LensOptions) -> Result<LensTable, LensError> {
        let c = self.model.config();
        let end = Place::new(Site::ResidPost, c.layers - 1);
        let of = |place: Place| {
            captured.matrix(place).ok_or_else(|| LensError::setting("place", place, "it was not captured"))
        };
        let count = captured.rows().len();
        let mut readings = vec![Vec::with_capacity(count); places.len()];
        let mut last = Vec::with_capacity(count);
        for first in (0..count).step_by(BLOCK) {
            let rows = first * c.hidden..(first + BLOCK).min(count) * c.hidden;
            let ends = &of(end)?[rows.clone()];
            let mut normed = ends.to_vec();
            self.model.apply_final_norm(&mut normed);
            let mut finals = vec![0f32; normed.len() / c.hidden * c.vocab];
            self.model.unembed_rows(&normed, &mut finals)?;
            last.extend(self.measure(&finals, &finals, options));
            for (place, readings) in places.iter().zip(&mut readings) {
                // the last stream needs no translator, and its logits are there
                if *place == end {
                    readings.extend(self.measure(&finals, &finals, options));
                    continue;
                }
                let logits = self.logits(*place, &of(*place)?[rows.clone()], ends)?;
                readings.extend(self.measure(&finals, &logits, options));
            }
        }
        let decision_layer = (0..count).map(|row| decision(places, &readings, &last, row)).collect();
        Ok(LensTable { places: places.to_vec(), rows: captured.rows().to_vec(), readings, last, decision_layer })
    }

    fn measure(&self, finals: &[f32], logits: &[f32], options: &LensOptions) -> Vec<Reading> {
        let vocab = self.model.config().vocab;
        let count = logits.len() / vocab;
        let slots: Vec<std::sync::OnceLock<Reading>> = (0..count).map(|_| std::sync::OnceLock::new()).collect();
        let one = |i: usize| {
            let (row, end) = (&logits[i * vocab..(i + 1) * vocab], &finals[i * vocab..(i + 1) * vocab]);
            reading(end, row, options)
        };
        self.model.pool().run(count, &|i| {
            // each row is one task, so its place is empty
            let _ = slots[i].set(one(i));
        });
        slots.into_iter().enumerate().map(|(i, slot)| slot.into_inner().unwrap_or_else(|| one(i))).collect()
    }
}

/// What one row of logits says, beside that of the end.
pub fn reading(last: &[f32], logits: &[f32], options: &LensOptions) -> Reading {
    let lse = log_sum_exp(logits);
    Reading {
        top: top(logits, lse, options.top_k.max(1)),
        tokens: options.tokens.iter().map(|&id| standing(logits, lse, id)).collect(),
        entropy: entropy(logits, lse),
        from_final: distance(last, logits),
    }
}

/// Rows of a contribution under the norm of the last stream: its scale is kept, only the gain is applied.
fn frozen(model: &Model, rows: &[f32], last: &[f32]) -> Vec<f32> {
    let c = model.config();
    let gain = model.final_norm_gain();
    let mut out = Vec::with_capacity(rows.len());
    for (row, last) in rows.chunks_exact(c.hidden).zip(last.chunks_exact(c.hidden)) {
        let scale = norm_scale(last, c.norm_eps) as f32;
        out.extend(row.iter().zip(gain).map(|(x, g)| x * scale * g));
    }
    out
}

/// `1 / sqrt(mean(x²) + eps)`: what an RMS norm multiplies a row with, before its gain.
pub(crate) fn norm_scale(row: &[f32], eps: f32) -> f64 {
    let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt()
}

fn decision(places: &[Place], readings: &[Vec<Reading>], last: &[Reading], row: usize) -> Option<usize> {
    let winner = |reading: &Reading| reading.top.first().map(|t| t.id);
    let end = winner(&last[row]);
    let streams = places.iter().zip(readings).filter(|(place, _)| place.site == Site::ResidPost);
    let mut decided = None;
    for (place, readings) in streams {
        if winner(&readings[row]) == end {
            decided = decided.or(Some(place.layer));
        } else {
            decided = None;
        }
    }
    decided
}
