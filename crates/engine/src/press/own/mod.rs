//! Presses that decide by their own logic what stays, rather than by a score and a budget.

pub mod fast_kvzip;
pub mod kvcompose;
pub mod kvzip;
