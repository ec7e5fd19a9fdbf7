//! What a probe learns from: rows of activations, what each is, and which rows belong together.

use super::ProbeError;

/// Rows of equal width, `(rows, width)`, row-major; every value is finite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    /// Takes rows.
    ///
    /// # Errors
    /// A width that does not divide the values, a value that is not finite.
    pub fn new(values: Vec<f32>, width: usize) -> Result<Rows, ProbeError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(ProbeError::Width { found: values.len(), needed: width });
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let value = f64::from(values[at]);
            return Err(ProbeError::NotFinite { row: at / width, column: at % width, value });
        }
        Ok(Rows { values, width })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row. Panics as a slice does where there is none.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.width]
    }

    /// The rows named, in that order.
    pub fn pick(&self, rows: &[usize]) -> Rows {
        let values = rows.iter().flat_map(|&row| self.row(row)).copied().collect();
        Rows { values, width: self.width }
    }
}

/// Labelled rows. Rows of one group (the prompts of one question, the facts of one answer) are never parted by a split,
/// and are drawn together when an interval is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// The rows.
    pub rows: Rows,
    /// One a row: true is the class that should score higher.
    pub labels: Vec<bool>,
    /// One a row.
    pub groups: Vec<u32>,
}

impl Examples {
    /// Puts them together.
    ///
    /// # Errors
    /// Labels or groups that are not one a row.
    pub fn new(rows: Rows, labels: Vec<bool>, groups: Vec<u32>) -> Result<Examples, ProbeError> {
        for (what, found) in [("labels", labels.len()), ("groups", groups.len())] {
            if found != rows.len() {
                return Err(ProbeError::Count { what, found, needed: rows.len() });
            }
        }
        Ok(Examples { rows, labels, groups })
    }

    /// The examples named, in that order.
    pub fn pick(&self, rows: &[usize]) -> Examples {
        Examples {
            rows: self.rows.pick(rows),
            labels: rows.iter().map(|&r| self.labels[r]).collect(),
            groups: rows.iter().map(|&r| self.groups[r]).collect(),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Refuses examples of one class only.
    pub(super) fn check_classes(&self) -> Result<(), ProbeError> {
        for class in [true, false] {
            if !self.labels.contains(&class) {
                let what = format!("rows labelled {}", u8::from(class));
                return Err(ProbeError::TooFew { what, found: 0, needed: 1 });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_picked_in_order_and_nonsense_is_refused() {
        let rows = Rows::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2).unwrap();
        assert_eq!((rows.len(), rows.row(1)), (3, &[3.0, 4.0][..]));
        assert_eq!(rows.pick(&[2, 0]).row(1), &[1.0, 2.0]);
        assert!(matches!(Rows::new(vec![1.0; 3], 2), Err(ProbeError::Width { found: 3, needed: 2 })));
        let nan = Rows::new(vec![0.0, 1.0, 2.0, f32::NAN], 2);
        assert!(matches!(nan, Err(ProbeError::NotFinite { row: 1, column: 1, .. })));
        let short = Examples::new(rows, vec![true], vec![0, 1, 2]);
        assert!(matches!(short, Err(ProbeError::Count { what: "labels", found: 1, needed: 3 })));
    }
}
