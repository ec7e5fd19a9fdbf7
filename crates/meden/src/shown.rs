//! An answer as people see it come.

use crate::cli::Global;
use crate::generate::Events;
use crate::output;
use crate::progress::Bar;

/// Shows reading as a bar and the answer as it is written; with `--json`, keeps the answer for the object.
pub struct Shown {
    /// Whether the answer is written as it comes.
    pub stream: bool,
    /// The bar.
    pub bar: Bar,
}

impl Shown {
    /// As the global flags say.
    pub fn new(global: Global) -> Shown {
        Shown { stream: !global.json, bar: Bar::new(global.quiet) }
    }
}

impl Events for Shown {
    fn reading(&mut self, done: usize, total: usize) {
        if done == total {
            self.bar.clear();
        } else {
            self.bar.tokens("reading", done, total);
        }
    }

    fn text(&mut self, piece: &str) -> anyhow::Result<()> {
        if self.stream {
            output::text(piece)?;
        }
        Ok(())
    }
}
