//! Reading the text again over its own cache, for presses that judge slots by how a second reading uses them.
//!
//! A press names its [`Reading`]s; the session reads each on a fork of the dense cache and drops the fork. What a
//! press finds goes into named columns of the heads, which are carried back to the slots of the text.

use std::ops::Range;
use std::sync::Arc;

use meden_kernels::attention::{AttendInput, AttendScratch, Columns, HeadView, Reduce, attend_lse, attention_columns};

use super::watch::{LayerState, Piece};
use super::{Needs, Press, Scores};
use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::view::LayerView;

/// The text that may be read again.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its tokens; token i stands at position i.
    pub ids: &'a [u32],
    /// Positions that the model's context has left after it.
    pub room: usize,
}

/// Tokens that are read after the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Positions of the text that this reading judges.
    pub chunk: Range<u32>,
    /// Position of the first of the tokens.
    pub first: u32,
}

/// Tokens in all readings.
pub fn tokens(readings: &[Reading]) -> usize {
    readings.iter().map(|r| r.ids.len()).sum()
}

/// Name of the column that says which slots have been judged: 1 where they were, 0 for what was read since.
pub(crate) fn done_column(press: &dyn Press) -> String {
    format!("{}/done", press.replay_key())
}

/// Are all slots of the pressed layers judged?
pub(crate) fn is_done(press: &dyn Press, heads: &[HeadCache]) -> bool {
    let done = done_column(press);
    heads.iter().all(|head| head.column(&done).is_some_and(|column| column.iter().all(|&d| d == 1.0)))
}

/// Name of the column of a query head, counted inside its group.
pub(crate) fn column_name(press: &dyn Press, number: usize) -> String {
    format!("{}/{number}", press.replay_key())
}

/// A press during one of its readings, as the gatherer of the fork sees it.
pub(crate) struct Again {
    pub press: Arc<dyn Press>,
    pub reading: Reading,
}

impl Press for Again {
    fn name(&self) -> &'static str {
        self.press.name()
    }

    fn needs(&self) -> Needs {
        // a press may look at what the attention of its readings reads
        Needs { hidden_states: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Err(layer.missing(self.name(), "score during a replay"))
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, _: &mut LayerState) -> Result<(), EngineError> {
        self.press.observe_again(&self.reading, piece, cache)
    }
}

/// Attention of the piece's queries to each slot of some heads, reduced over the queries (each times its weight): one
/// row a query head. The softmax is over the slots of these heads alone.
pub(crate) fn columns_of(
    piece: &Piece<'_>,
    heads: &[HeadView<'_>],
    weights: Option<&[f32]>,
    reduce: Reduce,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let (c, model) = (piece.model.config(), piece.model);
    // stored keys are met by queries turned as they are
    let input = AttendInput {
        q: piece.q_meeting,
        q_positions: piece.positions,
        q_heads: c.q_heads,
        heads,
        params: piece.params(),
    };
    let mut scratch = AttendScratch::default();
    let mut lse = vec![0f32; piece.positions.len() * c.q_heads];
    attend_lse(model.pool(), model.isa(), &input, &mut lse, &mut scratch)?;
    let mut columns: Vec<Vec<f32>> =
        (0..c.q_heads).map(|q_head| vec![0.0; heads[q_head / c.group()].positions.len()]).collect();
    let wanted = Columns { input: &input, lse: &lse, weights, reduce };
    attention_columns(model.pool(), model.isa(), &wanted, &mut columns, &mut scratch)?;
    Ok(columns)
}

/// Raise a column of a head to at least the values given for some of its slots.
pub(crate) fn raise(head: &mut HeadCache, name: String, slots: impl Iterator<Item = (usize, f32)>) {
    let column = head.column_mut(name);
    for (slot, value) in slots {
        // `max` would forget a NaN; the choice of slots refuses it by name and place
        if value > column[slot] || value.is_nan() {
            column[slot] = value;
        }
    }
}

/// Whether a text can be read again after itself at all.
pub(crate) fn no_room(press: &str, needed: usize, text: &Text<'_>) -> EngineError {
    EngineError::Press {
        press: press.to_string(),
        why: format!(
            "it reads the text again at the positions after it: {} tokens leave room for {} in this model's context of {}, {needed} are needed at least; shorten the text",
            text.ids.len(),
            text.room,
            text.ids.len() + text.room
        ),
    }
}
