//! Reading the text again for a press, on a fork of the cache.

use std::sync::Arc;

use super::Session;
use super::control::Control;
use crate::cache::KvCache;
use crate::error::EngineError;
use crate::hook::HookPlan;
use crate::model::forward::{Pass, Scratch, Segment};
use crate::press::plan::Moment;
use crate::press::replay::{Again, Reading, Text, column_name, done_column, is_done, tokens};
use crate::press::watch::Watch;
use crate::press::{Press, PressSpec};

/// Where a call with a replay stands among all its tokens.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub done: usize,
    pub total: usize,
}

impl Session {
    /// Read the text again for a press that asks for it, so that [`compress`](Self::compress) and
    /// [`press_scores`](Self::press_scores), here and on forks, need not do it once more. Returns the tokens read: none
    /// where it has been done.
    ///
    /// Errors: a press that asks for no replay, no room in the context, cancellation (the session stays as it was).
    pub fn replay(&mut self, press: &PressSpec, control: &mut Control<'_>) -> Result<usize, EngineError> {
        let press = press.build()?;
        if !press.needs().replay {
            return Err(EngineError::Press {
                press: press.name().to_string(),
                why: "it does not read the text again, so there is nothing to prepare".into(),
            });
        }
        self.ensure_replayed(&press, control)
    }

    /// Make sure that the press has judged every slot.
    pub(super) fn ensure_replayed(
        &mut self,
        press: &Arc<dyn Press>,
        control: &mut Control<'_>,
    ) -> Result<usize, EngineError> {
        if self.has_replayed(press.as_ref()) {
            return Ok(0);
        }
        let readings = self.readings(press.as_ref(), &self.history)?;
        let progress = Progress { done: 0, total: tokens(&readings) };
        control.report(0, progress.total);
        self.cache = self.read_again(press, &readings, (progress, control))?;
        Ok(progress.total)
    }

    /// Has the press judged every slot already?
    pub(super) fn has_replayed(&self, press: &dyn Press) -> bool {
        let full = self.cache.layers().iter().filter(|l| l.window().is_none());
        full.into_iter().all(|layer| is_done(press, layer.heads()))
    }

    /// What a press reads again of a text that this session will have read.
    pub(super) fn readings(&self, press: &dyn Press, ids: &[u32]) -> Result<Vec<Reading>, EngineError> {
        if self.next_position() != self.seen() {
            return Err(EngineError::Press {
                press: press.name().to_string(),
                why: "positions were numbered anew in this session, so its text cannot be read again".into(),
            });
        }
        press.readings(&Text { ids, room: self.model.config().context.saturating_sub(ids.len()) })
    }

    /// A fork of the cache that holds what the press found in its readings.
    pub(super) fn read_again(
        &self,
        press: &Arc<dyn Press>,
        readings: &[Reading],
        (mut progress, control): (Progress, &mut Control<'_>),
    ) -> Result<KvCache, EngineError> {
        let config = self.model.config();
        let names: Vec<String> = (0..config.group()).map(|g| column_name(press.as_ref(), g)).collect();
        let mut base = self.cache.fork();
        let mut scratch = Box::<Scratch>::default();
        for layer in (0..config.layers).filter(|&l| config.attention[l].window.is_none()) {
            for head in base.layer_mut(layer).heads_mut() {
                head.column_mut(done_column(press.as_ref())).fill(1.0);
                names.iter().for_each(|name| head.column_mut(name.clone()).fill(0.0));
            }
        }
        for reading in readings {
            // a fork for each: sliding layers lose their past while a reading goes by
            let mut fork = base.fork();
            let again: Arc<dyn Press> = Arc::new(Again { press: press.clone(), reading: reading.clone() });
            let mut watch = Watch::new(vec![again], config);
            let mut first = reading.first as usize;
            for ids in reading.ids.chunks(self.options.prefill_chunk) {
                let mut segments = [Segment {
                    ids,
                    seen: first,
                    first,
                    moment: Moment::Decode,
                    later: 0,
                    logits_from: ids.len(),
                    cache: &mut fork,
                    plan: None,
                    reader: None,
                    watch: &mut watch,
                }];
                let mut hooks = HookPlan::default();
                hooks.compile(&[], config.layers)?;
                let mut pass = Pass {
                    segments: &mut segments,
                    long_rope: self.long_rope.unwrap_or(false),
                    scratch: &mut scratch,
                    hooks: &mut hooks,
                };
                // hooks look at the text, not at what a press reads again
                let mut quiet = Control { cancel: control.cancel, ..Control::default() };
                self.model.run(&mut pass, &mut quiet, &mut |_, _| Ok(())).map_err(|error| match error {
                    EngineError::Cancelled { .. } => {
                        EngineError::Cancelled { done: progress.done, total: progress.total, pressed_layers: 0 }
                    }
                    other => other,
                })?;
                first += ids.len();
                progress.done += ids.len();
                control.report(progress.done, progress.total);
            }
            carry(&fork, &mut base, &names);
        }
        Ok(base)
    }

    /// Let go of what a press found in its readings.
    pub(super) fn drop_replay(&mut self, press: &dyn Press) {
        let config = self.model.config();
        for layer in 0..config.layers {
            for head in self.cache.layer_mut(layer).heads_mut() {
                head.drop_column(&done_column(press));
                (0..config.group()).for_each(|g| head.drop_column(&column_name(press, g)));
            }
        }
    }
}

/// Columns of the text's slots, from the fork that read again to the cache it was forked from.
fn carry(fork: &KvCache, base: &mut KvCache, names: &[String]) {
    for (layer, read) in fork.layers().iter().enumerate().filter(|(_, l)| l.window().is_none()) {
        for (head, read) in base.layer_mut(layer).heads_mut().iter_mut().zip(read.heads()) {
            let slots = head.len();
            for name in names {
                if let Some(found) = read.column(name) {
                    head.column_mut(name.clone()).copy_from_slice(&found[..slots]);
                }
            }
        }
    }
}
