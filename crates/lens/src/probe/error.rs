//! What can go wrong with a probe.

use meden_engine::EngineError;
use meden_files::FileError;

/// Errors of probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Rows, labels and groups that do not belong together.
    #[error("{what}: {found}, but there are {needed} rows; give one for each row, in the order of the rows")]
    Count {
        /// Labels, groups or weights.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many rows there are.
        needed: usize,
    },
    /// A row of another width than the probe's.
    #[error("a row has {found} values, the probe reads {needed}: it was made for another model or another site")]
    Width {
        /// Values given.
        found: usize,
        /// Values needed.
        needed: usize,
    },
    /// A value that is not finite.
    #[error(
        "row {row}, value {column} is {value}: activations have to be finite; look at the capture with `meden lens stats`"
    )]
    NotFinite {
        /// Row.
        row: usize,
        /// Column.
        column: usize,
        /// The value.
        value: f64,
    },
    /// Nothing can be learnt from rows of one class, or split into more parts than there are groups.
    #[error("{what}: {found}; at least {needed} needed")]
    TooFew {
        /// Rows of which class, groups.
        what: String,
        /// How many there are.
        found: usize,
        /// Fewest that would do.
        needed: usize,
    },
    /// A setting out of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Training did not come to its end.
    #[error(
        "training stopped after {iterations} iterations with a violation of {violation:.1e} (wanted: {tolerance:.1e}); \
         allow more iterations, or a larger lambda"
    )]
    NotConverged {
        /// Iterations done.
        iterations: usize,
        /// How far the optimality conditions are missed.
        violation: f64,
        /// How far they may be.
        tolerance: f64,
    },
    /// A probe file that cannot be used.
    #[error("probe file {path}: {why}")]
    BadFile {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A probe that was made for other weights.
    #[error("the probe was made for {made_for}, this model is {model}: train it again on this model")]
    OtherModel {
        /// Name and fingerprint the probe carries.
        made_for: String,
        /// Those of the loaded model.
        model: String,
    },
}
