//! Judging yes-or-no decisions and the probabilities behind them.

/// Rows by what they are and what was said of them. Counts may be weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Confusion {
    /// Positive rows called positive.
    pub true_positive: f64,
    /// Negative rows called positive.
    pub false_positive: f64,
    /// Negative rows called negative.
    pub true_negative: f64,
    /// Positive rows called negative.
    pub false_negative: f64,
}

impl Confusion {
    /// Counts `said` against `labels`. `None` where the lengths differ.
    pub fn of(labels: &[bool], said: &[bool]) -> Option<Confusion> {
        if labels.len() != said.len() {
            return None;
        }
        let mut counts = Confusion::default();
        labels.iter().zip(said).for_each(|(&label, &said)| counts.add(label, said, 1.0));
        Some(counts)
    }

    /// Takes in a row of weight `weight`.
    pub fn add(&mut self, label: bool, said: bool, weight: f64) {
        *match (label, said) {
            (true, true) => &mut self.true_positive,
            (false, true) => &mut self.false_positive,
            (false, false) => &mut self.true_negative,
            (true, false) => &mut self.false_negative,
        } += weight;
    }

    fn total(&self) -> f64 {
        self.true_positive + self.false_positive + self.true_negative + self.false_negative
    }

    /// Share of positive rows. `None` without rows.
    pub fn prevalence(&self) -> Option<f64> {
        share(self.true_positive + self.false_negative, self.total())
    }

    /// Share of right calls. `None` without rows.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.true_positive + self.true_negative, self.total())
    }

    /// Mean of the shares of positives and of negatives that were called right: 0.5 for a guess, whatever the
    /// prevalence. `None` where a class is missing.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        Some(0.5 * (self.recall()? + share(self.true_negative, self.true_negative + self.false_positive)?))
    }

    /// Share of rows called positive that are. `None` where none was called so.
    pub fn precision(&self) -> Option<f64> {
        share(self.true_positive, self.true_positive + self.false_positive)
    }

    /// Share of positive rows that were called so. `None` without positive rows.
    pub fn recall(&self) -> Option<f64> {
        share(self.true_positive, self.true_positive + self.false_negative)
    }

    /// The F measure in which recall weighs `beta` times as much as precision. `None` where there is neither a positive
    /// row nor a positive call.
    pub fn f_beta(&self, beta: f64) -> Option<f64> {
        let b = beta * beta;
        let right = (1.0 + b) * self.true_positive;
        share(right, right + b * self.false_negative + self.false_positive)
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Mean squared difference between probabilities and what came (Brier, 1950). `None` without rows or where the lengths
/// differ.
pub fn brier(labels: &[bool], probabilities: &[f64]) -> Option<f64> {
    if labels.is_empty() || labels.len() != probabilities.len() {
        return None;
    }
    let terms = labels.iter().zip(probabilities).map(|(&l, p)| (p - f64::from(u8::from(l))).powi(2));
    Some(crate::moments::sum(terms) / labels.len() as f64)
}

/// One bin of a reliability table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Rows in it.
    pub count: usize,
    /// Mean probability that was said.
    pub said: f64,
    /// Share of positive rows.
    pub came: f64,
}

/// Rows in `bins` bins of equal width over [0, 1], by the probability that was said. Empty bins have a count of 0.
/// `None` where the lengths differ, there are no bins, or a probability lies outside [0, 1].
pub fn reliability(labels: &[bool], probabilities: &[f64], bins: usize) -> Option<Vec<Bin>> {
    if labels.len() != probabilities.len() || bins == 0 || probabilities.iter().any(|p| !(0.0..=1.0).contains(p)) {
        return None;
    }
    let mut table = vec![Bin::default(); bins];
    for (&label, &p) in labels.iter().zip(probabilities) {
        let bin = &mut table[((p * bins as f64) as usize).min(bins - 1)];
        bin.count += 1;
        bin.said += p;
        bin.came += f64::from(u8::from(label));
    }
    for bin in table.iter_mut().filter(|b| b.count > 0) {
        bin.said /= bin.count as f64;
        bin.came /= bin.count as f64;
    }
    Some(table)
}

/// Expected calibration error: the mean over rows of |said - came| of their bin (Naeini, Cooper and Hauskrecht, 2015).
/// `None` as for [`reliability`], and without rows.
pub fn expected_calibration_error(labels: &[bool], probabilities: &[f64], bins: usize) -> Option<f64> {
    let table = reliability(labels, probabilities, bins).filter(|_| !labels.is_empty())?;
    let total: f64 = table.iter().map(|b| b.count as f64 * (b.said - b.came).abs()).sum();
    Some(total / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_match_a_case_done_by_hand() {
        let labels = [true, true, true, false, false, false, false, false];
        let said = [true, true, false, true, false, false, false, false];
        let c = Confusion::of(&labels, &said).unwrap();
        assert_eq!((c.true_positive, c.false_negative, c.false_positive, c.true_negative), (2.0, 1.0, 1.0, 4.0));
        assert_eq!(c.accuracy(), Some(0.75));
        assert_eq!(c.prevalence(), Some(0.375));
        assert!((c.balanced_accuracy().unwrap() - 0.5 * (2.0 / 3.0 + 0.8)).abs() < 1e-12);
        assert!((c.f_beta(1.0).unwrap() - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_missing_class_has_no_share() {
        let c = Confusion::of(&[false, false], &[false, false]).unwrap();
        assert_eq!((c.recall(), c.precision(), c.balanced_accuracy(), c.f_beta(1.0)), (None, None, None, None));
        assert_eq!(c.accuracy(), Some(1.0));
        assert_eq!(Confusion::of(&[true], &[]), None);
        assert_eq!(Confusion::default().accuracy(), None);
    }

    #[test]
    fn calibration_is_the_gap_between_said_and_came() {
        let labels = [true, false, true, true];
        let p = [0.5, 0.5, 0.9, 1.0];
        assert!((brier(&labels, &p).unwrap() - (0.25 + 0.25 + 0.01) / 4.0).abs() < 1e-12);
        let table = reliability(&labels, &p, 10).unwrap();
        assert_eq!((table[5].count, table[5].came, table[9].count), (2, 0.5, 2));
        assert!((expected_calibration_error(&labels, &p, 10).unwrap() - 0.5 * 0.05).abs() < 1e-12);
        assert_eq!(reliability(&labels, &[0.0, 0.0, 0.0, 1.1], 10), None);
        assert_eq!(brier(&[], &[]), None);
    }
}
