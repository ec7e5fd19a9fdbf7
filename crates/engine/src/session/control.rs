//! What a caller may hand to a long call: a progress report, a way to stop it, and hooks.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::EngineError;
use crate::hook::Hook;

/// Told how far a call is: tokens done, tokens in all.
pub type ProgressFn<'a> = &'a mut dyn FnMut(usize, usize);

/// Told each row of logits: the number of its token in the call, its values.
pub type Emit<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<(), EngineError>;

/// Optional companions of a call; `Control::default()` has none.
#[derive(Default)]
pub struct Control<'a> {
    /// Called after each chunk with tokens done and tokens in all.
    pub progress: Option<ProgressFn<'a>>,
    /// Set to true from another thread to stop; honoured between layers.
    pub cancel: Option<&'a AtomicBool>,
    /// Hooks, in the order they are called at a shared site.
    pub hooks: Vec<&'a mut dyn Hook>,
    /// In a batch, the number of the item that each hook looks at, one a hook: it is shown the rows of that item alone.
    /// A call of one session needs none.
    pub items: Vec<usize>,
}

impl Control<'_> {
    /// Has the caller asked to stop?
    pub fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Report progress if anyone listens.
    pub(crate) fn report(&mut self, done: usize, total: usize) {
        if let Some(progress) = self.progress.as_mut() {
            progress(done, total);
        }
    }
}
