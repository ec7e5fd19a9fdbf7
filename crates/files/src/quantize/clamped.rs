//! Values that were lost because their format cannot hold them.

use std::fmt;

use meden_kernels::DType;
use serde::Serialize;

/// How many tensors the one line for people names.
const NAMED: usize = 3;

/// Values of one tensor that lie beyond the range of its format and were held at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClampedTensor {
    /// Its name in the file that was read.
    pub tensor: String,
    /// The format.
    pub format: String,
    /// How many of its values.
    pub values: u64,
}

/// A row for each tensor with such values, by name. Shown, it is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Clamped(Vec<ClampedTensor>);

impl Clamped {
    /// Counts values of a tensor, which may come in several parts.
    pub fn count(&mut self, tensor: &str, format: DType, values: usize) {
        if values == 0 {
            return;
        }
        let values = values as u64;
        match self.0.binary_search_by(|row| row.tensor.as_str().cmp(tensor)) {
            Ok(at) => self.0[at].values += values,
            Err(at) => {
                let (tensor, format) = (tensor.to_owned(), format.name().to_owned());
                self.0.insert(at, ClampedTensor { tensor, format, values });
            }
        }
    }

    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows.
    pub fn rows(&self) -> &[ClampedTensor] {
        &self.0
    }

    /// Values of all tensors.
    pub fn values(&self) -> u64 {
        self.0.iter().map(|row| row.values).sum()
    }
}

impl fmt::Display for Clamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = |count: u64, noun: &str| if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") };
        let (values, tensors) = (noun(self.values(), "value"), noun(self.0.len() as u64, "tensor"));
        write!(f, "{values} of {tensors} beyond the range of the format, held at its end: ")?;
        for (number, row) in self.0.iter().take(NAMED).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{} of {} in {}", row.values, row.tensor, row.format)?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_tensor_are_one_row_and_the_line_stays_short() {
        let mut clamped = Clamped::default();
        clamped.count("d", DType::F16, 0);
        assert!(clamped.is_empty());
        clamped.count("c", DType::F16, 1);
        assert_eq!(
            clamped.to_string(),
            "1 value of 1 tensor beyond the range of the format, held at its end: 1 of c in F16"
        );
        for name in ["a", "e", "b", "a", "d"] {
            clamped.count(name, DType::Q4_0, 2);
        }
        let names: Vec<&str> = clamped.rows().iter().map(|row| row.tensor.as_str()).collect();
        assert_eq!((names, clamped.values()), (vec!["a", "b", "c", "d", "e"], 11));
        let line = clamped.to_string();
        assert!(line.contains("11 values of 5 tensors") && line.contains("4 of a in Q4_0"), "{line}");
        assert!(line.ends_with("1 of c in F16, and 2 more"), "{line}");
    }
}
