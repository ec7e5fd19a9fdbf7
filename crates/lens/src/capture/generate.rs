//! Capture while a model writes.

use meden_engine::{Control, LogitRows, Session};

use super::Selection;
use super::copy::{CopyRows, Sink};
use crate::companions::reborrow;
use crate::error::LensError;
use crate::generate::{Generate, sampling};

/// Rows that go behind others.
struct From<'a> {
    first: usize,
    sink: &'a mut dyn Sink,
}

impl Sink for From<'_> {
    fn take(&mut self, place: usize, first: usize, rows: &[f32]) -> Result<(), LensError> {
        self.sink.take(place, self.first + first, rows)
    }
}

/// Reads a prompt behind a fork of `session`, writes behind it, and hands the wanted rows of the prompt, then those of
/// every written token, to the sink. Returns the written ids; hooks of `control` see and edit both.
pub(super) fn generated(
    session: &Session,
    ids: &[u32],
    (selection, generate): (&Selection, &Generate),
    sink: &mut dyn Sink,
    control: &mut Control<'_>,
) -> Result<Vec<u32>, LensError> {
    let mut sampler = generate.sampler()?;
    let wanted = selection.positions.resolve(ids.len())?;
    let first_written = wanted.len();
    let mut fork = session.fork()?;
    let context = fork.model().config().context;
    let mut writer = Writer { session: &mut fork, selection, logits: Vec::new() };
    writer.read(ids, wanted, sink, control)?;
    let mut written = Vec::new();
    while written.len() < generate.tokens && writer.session.next_position() < context {
        let id = sampler.sample(&writer.logits, writer.session.history()).map_err(sampling)?.id;
        if generate.stop.contains(&id) {
            break;
        }
        let mut behind = From { first: first_written + written.len(), sink: &mut *sink };
        let mut quiet = reborrow(control);
        quiet.progress = None;
        writer.read(&[id], vec![0], &mut behind, &mut quiet)?;
        written.push(id);
    }
    Ok(written)
}

/// A session that writes, and the logits of its last token.
struct Writer<'a> {
    session: &'a mut Session,
    selection: &'a Selection,
    logits: Vec<f32>,
}

impl Writer<'_> {
    /// Reads tokens, the wanted ones of which go to the sink.
    fn read(
        &mut self,
        ids: &[u32],
        wanted: Vec<usize>,
        sink: &mut dyn Sink,
        control: &mut Control<'_>,
    ) -> Result<(), LensError> {
        let logits = &mut self.logits;
        let mut keep = |_: usize, row: &[f32]| {
            logits.clear();
            logits.extend_from_slice(row);
            Ok(())
        };
        if wanted.is_empty() {
            return Ok(self.session.score(ids, LogitRows::Last, control, &mut keep)?);
        }
        let rows = match self.selection.logit_rows(&wanted, ids.len()) {
            LogitRows::All => LogitRows::All,
            _ => LogitRows::Last,
        };
        let first_logits = if rows == LogitRows::Last { ids.len() - 1 } else { 0 };
        let mut copy = CopyRows::new(&self.selection.places, wanted, first_logits, sink);
        let read = {
            let mut control = reborrow(control);
            control.hooks.push(&mut copy);
            self.session.score(ids, rows, &mut control, &mut keep)
        };
        copy.outcome(read)
    }
}
