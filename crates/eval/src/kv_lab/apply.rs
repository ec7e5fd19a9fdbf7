//! The one place where a press is applied to a dense session.

use meden_engine::{Policy, Session};

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

/// Applies a policy once to a copy of `dense`, which stays as it is. The press has to be one of those that `dense` has
/// watched for.
///
/// # Errors
/// A policy that the model cannot carry out, a press whose needs were not gathered.
pub fn apply(dense: &Session, policy: &Policy, clock: Option<Clock<'_>>) -> Result<Compressed, EvalError> {
    let mut session = dense.fork()?;
    let start = clock.map(|now| now());
    let done = session.compress(policy)?;
    let milliseconds = clock.zip(start).map(|(now, start)| (now() - start).as_secs_f64() * 1e3);
    // from here on the bytes are those of this press alone
    session.stop_watching();
    Ok(Compressed {
        evicted: done.evicted,
        before_bytes: done.before_bytes,
        after_bytes: session.stats().kv_bytes,
        milliseconds,
        notes: session.stats().notes,
        session,
    })
}
