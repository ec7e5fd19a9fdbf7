//! Ctrl-C: the first one asks the running work to stop cleanly, the second one ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. Call once, before any work.
pub fn install() {
    let listening = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(Exit::Interrupted as i32);
        }
    });
    // Without a handler the system's own applies: Ctrl-C still ends the program, only less cleanly.
    drop(listening);
}

/// The flag that long work looks at.
pub fn flag() -> &'static AtomicBool {
    &INTERRUPTED
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Forgets an interruption that has been dealt with, as a chat does between two answers.
pub fn reset() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}
