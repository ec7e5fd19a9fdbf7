//! Several sessions forward in one pass, so that the weights are read once for all of them.
//!
//! A row's results do not depend on the other rows of its pass: products sum in the same order for any number of
//! rows, and attention, positions, presses and caches are each session's own. So a session gives the same logits, bit
//! by bit, alone and in any company.

use std::sync::Arc;

use super::compress::end_of_prefill;
use super::control::Control;
use super::interrupted::Pressed;
use super::replay::Progress;
use super::{LogitRows, Session};
use crate::error::EngineError;
use crate::hook::{HookPlan, Spans};
use crate::model::forward::{Pass, Scratch, Segment};
use crate::press::plan::{At, Moment, held};
use crate::press::replay::tokens;
use crate::reuse::reuse;

/// One session's share of a batch.
pub struct BatchItem<'a> {
    /// The session; all sessions of a batch share one model.
    pub session: &'a mut Session,
    /// Tokens to read: one to decode, more to prefill. Lengths may differ.
    pub ids: &'a [u32],
    /// Which rows of logits are wanted.
    pub rows: LogitRows,
}

/// Told each wanted row of logits: the number of its item, of its token in that item's ids, and the values.
pub type EmitItem<'a> = &'a mut dyn FnMut(usize, usize, &[f32]) -> Result<(), EngineError>;

/// What a call works with, kept from call to call so that a decoded token allocates nothing.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    hooks: HookPlan,
    standings: Vec<Standing>,
    taken: Vec<Taken>,
    segments: Vec<Segment<'static>>, // empty between calls
}

/// Where an item stands.
struct Standing {
    done: usize,
    first: bool,
    long_rope: bool,
}

/// Tokens of one item in one pass.
struct Taken {
    item: usize,
    /// First of them in the item's ids.
    from: usize,
    count: usize,
    moment: Moment,
    logits_from: usize,
    /// A call for one token of a text that has been read: what a read policy speaks of.
    decodes: bool,
    /// What the session's press had done before.
    before: Pressed,
}

/// Read the tokens of every item. Items advance together, each in pieces as its options and its press ask; one that
/// has finished leaves the others to go on.
///
/// # Errors
/// Items of different models; hooks of several items that do not say whose rows they look at ([`Control::items`]); what
/// [`Session::score`] refuses. On an error each session stands where its last whole piece ended.
pub fn forward_batch(
    items: &mut [BatchItem<'_>],
    control: &mut Control<'_>,
    emit: EmitItem<'_>,
) -> Result<(), EngineError> {
    let Some(first) = items.first_mut() else { return Ok(()) };
    // they lie with the first session
    let mut buffers = first.session.buffers.take().unwrap_or_default();
    let done = read(items, control, emit, &mut buffers);
    items[0].session.buffers = Some(buffers);
    done
}

fn read(
    items: &mut [BatchItem<'_>],
    control: &mut Control<'_>,
    emit: EmitItem<'_>,
    buffers: &mut Buffers,
) -> Result<(), EngineError> {
    let model = items[0].session.model.clone();
    check(items, control)?;
    let Buffers { scratch, hooks, standings, taken, segments: kept } = buffers;
    hooks.compile(&control.hooks, model.config().layers)?;
    if items.iter().all(|item| item.session.looks) {
        hooks.stop_early();
    }
    standings.clear();
    items.iter_mut().for_each(|item| item.session.recover());
    standings.extend(items.iter_mut().map(|item| item.session.stand(item.ids.len())));
    let reading: usize = items.iter().map(|item| item.ids.len()).sum();
    let again = items.iter().map(|item| item.session.tokens_again(item.ids)).sum::<Result<usize, EngineError>>()?;
    let total = reading + again;
    let mut done = 0;
    control.report(done, total);
    while done < reading {
        if control.cancelled() {
            return Err(EngineError::Cancelled { done, total, pressed_layers: 0 });
        }
        let long_rope = next_pass(items, standings, taken);
        taken.iter().for_each(|t| items[t.item].session.unfinished = Some(t.before));
        if !control.items.is_empty() {
            hooks.show(control.items.iter().map(|item| spans(taken, *item)));
        }
        let mut segments = reuse(std::mem::take(kept));
        fill(&mut segments, items, taken);
        let mut pass = Pass { segments: &mut segments, long_rope, scratch, hooks };
        let mut emit_row = |row: usize, values: &[f32]| {
            let mut row = row;
            for t in &*taken {
                if row < t.count {
                    return emit(t.item, t.from + row, values);
                }
                row -= t.count;
            }
            Ok(())
        };
        let result = model.run(&mut pass, control, &mut emit_row);
        *kept = reuse(segments);
        let mut pressed_layers = 0;
        for t in &*taken {
            let session = &mut *items[t.item].session;
            session.unfinished = None;
            match &result {
                Ok(()) => {
                    session.history.extend_from_slice(&items[t.item].ids[t.from..t.from + t.count]);
                    standings[t.item].done += t.count;
                    done += t.count;
                }
                Err(_) => pressed_layers = pressed_layers.max(session.give_up(t.before)),
            }
        }
        result.map_err(|error| match error {
            EngineError::Cancelled { .. } => EngineError::Cancelled { done, total, pressed_layers },
            other => other,
        })?;
        control.report(done, total);
    }
    for item in &mut *items {
        // until the press has acted, the first prefill is not over: a call that was stopped here goes on from here
        done += item.session.press_after_replay(Progress { done, total }, control)?;
    }
    for item in items {
        item.session.prefilled = true;
        item.session.forget_what_no_press_will_read();
    }
    hooks.check_fired(&control.hooks)
}

fn check(items: &[BatchItem<'_>], control: &Control<'_>) -> Result<(), EngineError> {
    let refuse = |value: String, allowed: &str| EngineError::Setting { field: "batch", value, allowed: allowed.into() };
    let (hooks, of) = (control.hooks.len(), control.items.len());
    if of != hooks && (of > 0 || items.len() > 1) {
        let value = format!("{} sessions with {hooks} hooks, of which {of} name a session", items.len());
        return Err(refuse(value, "the number of an item for each hook, in Control::items"));
    }
    if let Some(number) = control.items.iter().find(|number| **number >= items.len()) {
        return Err(refuse(format!("a hook of item {number}"), "items of the batch, counted from 0"));
    }
    for (number, item) in items.iter().enumerate() {
        if !Arc::ptr_eq(&item.session.model, &items[0].session.model) {
            return Err(refuse(format!("session {number}"), "sessions of one loaded model"));
        }
        item.session.check(item.ids)?;
    }
    Ok(())
}

/// The rows of an item in a pass; none where it is not part of it.
fn spans(taken: &[Taken], item: usize) -> Spans {
    let (mut row, mut wanted) = (0, 0);
    for t in taken {
        let logits = t.count - t.logits_from;
        if t.item == item {
            return Spans { rows: row..row + t.count, wanted: wanted..wanted + logits };
        }
        row += t.count;
        wanted += logits;
    }
    Spans::default()
}

/// What goes into the next pass: a piece of every item that is not done and rotates as the first of them does.
/// Whether that is with the long factors.
fn next_pass(items: &[BatchItem<'_>], standings: &[Standing], taken: &mut Vec<Taken>) -> bool {
    let open = |i: &usize| standings[*i].done < items[*i].ids.len();
    taken.clear();
    let mut long_rope = None;
    for i in (0..items.len()).filter(open) {
        let standing = &standings[i];
        if *long_rope.get_or_insert(standing.long_rope) == standing.long_rope {
            taken.push(items[i].session.next_piece(i, &items[i], standing));
        }
    }
    long_rope.unwrap_or(false)
}

fn fill<'a>(segments: &mut Vec<Segment<'a>>, items: &'a mut [BatchItem<'_>], taken: &[Taken]) {
    let mut of = taken.iter().peekable();
    for (number, item) in items.iter_mut().enumerate() {
        let Some(t) = of.next_if(|t| t.item == number) else { continue };
        segments.push(Segment {
            ids: &item.ids[t.from..t.from + t.count],
            seen: item.session.history.len(),
            first: item.session.next_position(),
            moment: t.moment,
            later: item.ids.len() - t.from - t.count,
            logits_from: t.logits_from,
            cache: &mut item.session.cache,
            plan: item.session.plan.as_mut(),
            reader: item.session.reader.as_mut().filter(|_| t.decodes),
            watch: &mut item.session.watch,
        });
    }
}

impl Session {
    fn stand(&mut self, more: usize) -> Standing {
        let long_rope = *self.long_rope.get_or_insert_with(|| {
            let original = self.model.config().ropes.iter().find_map(|r| r.original());
            original.is_some_and(|limit| self.history.len() + more > limit)
        });
        Standing { done: 0, first: !self.prefilled, long_rope }
    }

    /// Tokens that the press will read again when the first prefill ends with these.
    fn tokens_again(&self, ids: &[u32]) -> Result<usize, EngineError> {
        let Some(plan) = self.plan.as_ref().filter(|p| !self.prefilled && p.replays(self.seen() + ids.len())) else {
            return Ok(0);
        };
        let text: Vec<u32> = self.history.iter().chain(ids).copied().collect();
        Ok(tokens(&self.readings(plan.press().as_ref(), &text)?))
    }

    /// At the end of the first prefill: let a press that asks for it read the text again, and act. Returns the tokens
    /// read again.
    fn press_after_replay(&mut self, progress: Progress, control: &mut Control<'_>) -> Result<usize, EngineError> {
        let seen = self.history.len();
        let Some(plan) = self.plan.as_ref().filter(|p| !self.prefilled && p.replays(seen)) else { return Ok(0) };
        let press = plan.press().clone();
        let readings = self.readings(press.as_ref(), &self.history)?;
        self.cache = self.read_again(&press, &readings, (progress, control))?;
        let Some(plan) = self.plan.as_mut() else { return Ok(0) };
        let now = end_of_prefill(&self.model, seen, self.long_rope);
        plan.act_now(&mut self.cache, &now, &self.watch)?;
        plan.counters.replayed += tokens(&readings) as u64;
        self.drop_replay(press.as_ref());
        Ok(tokens(&readings))
    }

    fn next_piece(&self, number: usize, item: &BatchItem<'_>, standing: &Standing) -> Taken {
        let left = item.ids.len() - standing.done;
        let mut moment = if standing.first { Moment::PrefillChunk } else { Moment::Decode };
        let mut count = left.min(self.options.prefill_chunk);
        if let Some(plan) = &self.plan {
            let seen = self.history.len();
            let at = At { moment, seen, until: seen + left };
            count = count.min(plan.piece(at, |layer| held(&self.cache.layers()[layer])));
        }
        let last = count == left;
        if standing.first && last {
            moment = Moment::PrefillEnd;
        }
        let logits_from = match item.rows {
            LogitRows::All => 0,
            LogitRows::Last if last => count - 1,
            _ => count,
        };
        let decodes = !standing.first && item.ids.len() == 1;
        let before = self.pressed();
        Taken { item: number, from: standing.done, count, moment, logits_from, decodes, before }
    }
}
