//! Presses that decide by their own logic what stays, rather than by a score and a budget.

pub mod duo_attention;
pub mod fast_kvzip;
pub mod finch;
pub mod kvcompose;
pub mod kvzip;
pub mod simlayerkv;
pub mod think;
