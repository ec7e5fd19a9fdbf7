//! Reading for hooks alone: nothing of it stays, so nothing has to be computed that no hook sees.

use super::control::Control;
use super::{LogitRows, Session};
use crate::error::EngineError;

impl Session {
    /// Let the hooks of `control` see these tokens behind what the session has read, and forget them again. The layers
    /// behind the last one that a hook wants are not run, unless a press may act on them; logits are computed where a
    /// hook wants `final_norm` or `logits`, for the rows that `rows` says.
    ///
    /// # Errors
    /// As [`score`](Session::score); a hook that wants nothing or was never reached.
    pub fn look(&self, ids: &[u32], rows: LogitRows, control: &mut Control<'_>) -> Result<(), EngineError> {
        if control.hooks.is_empty() {
            return Err(EngineError::Hook {
                hook: "none".into(),
                why: "a look without a hook sees nothing: add one to the control".into(),
            });
        }
        let mut fork = self.fork()?;
        fork.looks = fork.plan.is_none();
        fork.score(ids, rows, control, &mut |_, _| Ok(()))
    }
}
