//! How far a load is, and whether it should stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::EngineError;

/// What may watch and stop a load; `LoadWatch::default()` does neither.
#[derive(Clone, Copy, Default)]
pub struct LoadWatch<'a> {
    /// Told bytes of weights loaded, as the files have them, and of all. Layers are loaded side by side, so it is called
    /// from several threads and not always in order; the last call says that all is loaded.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    /// Set to true to stop; looked at between tensors, and between the pieces of one that is quantised.
    pub cancel: Option<&'a AtomicBool>,
}

/// A load that is watched.
pub(super) struct Watched<'a> {
    watch: LoadWatch<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Watched<'a> {
    pub(super) fn new(watch: LoadWatch<'a>, total: u64) -> Self {
        Watched { watch, done: AtomicU64::new(0), total }
    }

    /// Counts bytes that are loaded.
    ///
    /// # Errors
    /// The caller asked to stop.
    pub(super) fn step(&self, bytes: usize) -> Result<(), EngineError> {
        let done = self.done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if self.watch.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(EngineError::LoadCancelled { done: done.min(self.total), total: self.total });
        }
        if let Some(progress) = self.watch.progress.filter(|_| bytes > 0) {
            progress(done.min(self.total), self.total);
        }
        Ok(())
    }

    /// All that is needed is here, whatever else the files hold.
    pub(super) fn finish(&self) {
        if let Some(progress) = self.watch.progress {
            progress(self.total, self.total);
        }
    }
}
