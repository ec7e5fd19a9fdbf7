//! Captured rows in memory.

use meden_engine::{Control, Session};

use super::copy::Sink;
use super::{RowOf, Selection, read_prompt};
use crate::companions::part;
use crate::error::LensError;
use crate::place::Place;

/// Rows of some places for some prompts, in f32.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    pub(super) places: Vec<Place>,
    pub(super) widths: Vec<usize>,
    pub(super) values: Vec<Vec<f32>>,
    pub(super) rows: Vec<RowOf>,
}

impl Captured {
    /// Places, in the order the data flows.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Where each row comes from; the same for every place, prompts in order, positions ascending.
    pub fn rows(&self) -> &[RowOf] {
        &self.rows
    }

    /// Values of a row of a place; `None` for a place that was not captured.
    pub fn width(&self, place: Place) -> Option<usize> {
        self.number(place).map(|i| self.widths[i])
    }

    /// All rows of a place, `(rows, width)`, row-major; `None` for a place that was not captured.
    pub fn matrix(&self, place: Place) -> Option<&[f32]> {
        self.number(place).map(|i| self.values[i].as_slice())
    }

    /// One row of a place; `None` where there is none.
    pub fn row(&self, place: Place, row: usize) -> Option<&[f32]> {
        let i = self.number(place)?;
        self.values[i].get(row * self.widths[i]..(row + 1) * self.widths[i])
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are fewer rows, as slicing would.
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Captured {
        let some = |(values, &width): (&Vec<f32>, &usize)| values[rows.start * width..rows.end * width].to_vec();
        Captured {
            places: self.places.clone(),
            widths: self.widths.clone(),
            values: self.values.iter().zip(&self.widths).map(some).collect(),
            rows: self.rows[rows.clone()].to_vec(),
        }
    }

    fn number(&self, place: Place) -> Option<usize> {
        self.places.binary_search(&place).ok()
    }
}

/// Rows of one prompt go behind those of the prompts before.
struct Behind<'a> {
    captured: &'a mut Captured,
}

impl Sink for Behind<'_> {
    fn take(&mut self, place: usize, _: usize, rows: &[f32]) -> Result<(), LensError> {
        // rows of a place come in ascending order
        self.captured.values[place].extend_from_slice(rows);
        Ok(())
    }
}

/// Captures the selected rows of every prompt, each read by itself behind what `session` holds (which stays as it is).
/// Memory is what is returned: rows x width x 4 bytes a place, whatever the prompts' length.
///
/// Hooks of `control` see and edit first, so that a capture under an intervention is a capture with its hook.
///
/// # Errors
/// A prompt without tokens, longer than the context or without a wanted position; foreign ids; cancellation.
pub fn capture(
    session: &Session,
    prompts: &[Vec<u32>],
    selection: &Selection,
    control: &mut Control<'_>,
) -> Result<Captured, LensError> {
    let config = session.model().config();
    let places = selection.places.clone();
    let widths: Vec<usize> = places.iter().map(|p| p.width(config)).collect();
    let mut captured = Captured { values: vec![Vec::new(); places.len()], places, widths, rows: Vec::new() };
    let total: usize = prompts.iter().map(Vec::len).sum();
    let mut done = 0;
    for (number, ids) in prompts.iter().enumerate() {
        let wanted = selection.positions.resolve(ids.len())?;
        for (values, width) in captured.values.iter_mut().zip(&captured.widths) {
            values.reserve(wanted.len() * width);
        }
        let row = |position: usize| RowOf { prompt: number, position, id: ids[position] };
        captured.rows.extend(wanted.into_iter().map(row));
        let mut sink = Behind { captured: &mut captured };
        part(control, (done, total), |control| read_prompt(session, ids, selection, &mut sink, control))?;
        done += ids.len();
    }
    Ok(captured)
}
