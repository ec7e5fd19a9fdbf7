//! How far a block moves the class token.

/// How the squared change is reduced to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta {
    /// Sum over channels, mean over images: independent of the batch size.
    Mean,
    /// Sum over channels and images, as in the published code.
    Author,
    /// `Mean`, divided by the mean squared length of the class token that entered.
    Relative,
}

/// The delta of class tokens before and after a block: (images, width) each.
pub fn delta(kind: Delta, (before, after): (&[f32], &[f32]), images: usize) -> f64 {
    let moved: f64 = before.iter().zip(after).map(|(b, a)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let images = images.max(1) as f64;
    match kind {
        Delta::Author => moved,
        Delta::Mean => moved / images,
        Delta::Relative => {
            let length: f64 = before.iter().map(|b| f64::from(*b) * f64::from(*b)).sum();
            if length > 0.0 { moved / length } else { 0.0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_twice_leaves_the_mean_and_doubles_the_authors_delta() {
        let (before, after) = ([1.0f32, 2.0, 3.0, 4.0], [2.0f32, 2.0, 3.0, 6.0]);
        let twice = ([before, before].concat(), [after, after].concat());
        for (kind, once_value, factor) in
            [(Delta::Mean, 2.5, 1.0), (Delta::Author, 5.0, 2.0), (Delta::Relative, 5.0 / 30.0, 1.0)]
        {
            let once = delta(kind, (&before, &after), 2);
            assert!((once - once_value).abs() < 1e-12);
            assert!((delta(kind, (&twice.0, &twice.1), 4) - factor * once).abs() < 1e-12);
        }
    }
}
