//! What a long study is given by its caller.

use std::sync::atomic::{AtomicBool, Ordering};

use meden_engine::EngineError;

use crate::error::EvalError;

/// Told what is done, how far it is, and of how much.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Told what a user should know before the work goes on, one sentence at a time.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// A progress report, a way to stop, and someone to tell.
pub struct Companions<'a> {
    /// Told how far a part of the study is.
    pub progress: Progress<'a>,
    /// Told sentences.
    pub say: Say<'a>,
    /// Set from outside to stop; what is done stays.
    pub cancel: &'a AtomicBool,
}

impl Companions<'_> {
    /// Tells how far it is, and stops where that is wanted.
    pub(crate) fn step(&mut self, what: &str, done: usize, total: usize) -> Result<(), EvalError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled { done, total, pressed_layers: 0 }.into());
        }
        (self.progress)(what, done, total);
        Ok(())
    }
}
