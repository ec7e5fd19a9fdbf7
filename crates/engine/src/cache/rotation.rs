//! Keys and values turned before they are stored, so that few bits hold them better.

use meden_kernels::ops;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// What keys and values are multiplied by on their way into the cache.
///
/// Keys keep to a few channels, which then decide the steps of their whole group in q8 and q4. An orthogonal matrix
/// spreads them over all channels, and multiplying the queries by it too leaves every logit what it was; values are
/// turned back by what attends to them (Ashkboos et al., QuaRot, arXiv 2404.00456).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvRotation {
    /// The normalised Hadamard matrix of the head's width, which has to be a power of two.
    Hadamard,
}

impl KvRotation {
    /// Refuses a width that there is no matrix for.
    pub(crate) fn check(self, head_dim: usize) -> Result<(), EngineError> {
        if head_dim.is_power_of_two() {
            return Ok(());
        }
        Err(EngineError::Setting {
            field: "rotation of the cache",
            value: self.to_string(),
            allowed: format!("a power of two as the head's width; this model's is {head_dim}: leave the rotation out"),
        })
    }

    /// Turns one key or value; turning it again gives it back, up to rounding.
    pub fn turn(self, row: &mut [f32]) {
        match self {
            KvRotation::Hadamard => ops::hadamard_row(row),
        }
    }

    /// The same for many rows of `dim` values.
    pub fn turn_all(self, (pool, isa): (&meden_kernels::Pool, meden_kernels::Isa), rows: &mut [f32], dim: usize) {
        match self {
            KvRotation::Hadamard => ops::hadamard(pool, isa, rows, dim),
        }
    }
}

impl std::str::FromStr for KvRotation {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<KvRotation, EngineError> {
        match text {
            "hadamard" => Ok(KvRotation::Hadamard),
            _ => Err(EngineError::Setting {
                field: "rotation of the cache",
                value: text.to_string(),
                allowed: "hadamard".to_string(),
            }),
        }
    }
}

impl std::fmt::Display for KvRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KvRotation::Hadamard => f.pad("hadamard"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_without_a_matrix_is_refused_with_the_width() {
        assert!(KvRotation::Hadamard.check(64).is_ok());
        let error = KvRotation::Hadamard.check(80).expect_err("80 is no power of two").to_string();
        assert!(error.contains("80"), "{error}");
        assert!("fourier".parse::<KvRotation>().is_err());
        assert_eq!("hadamard".parse::<KvRotation>().expect("its name"), KvRotation::Hadamard);
    }
}
