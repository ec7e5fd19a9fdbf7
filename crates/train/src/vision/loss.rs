//! Cross-entropy of logits, and its gradient.

use super::error::TrainError;

/// A batch's loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Mean over the batch.
    pub value: f64,
    /// Gradient of the mean with respect to the logits (images, classes).
    pub gradient: Vec<f32>,
    /// Images whose highest logit is their class.
    pub right: usize,
}

/// Mean cross-entropy of `logits` (images, classes). `smoothing` spreads that share of the target evenly over all classes
/// (Szegedy et al., 2015).
///
/// # Errors
/// Lengths that do not fit, a label that is no class, or a smoothing outside [0, 1).
pub fn cross_entropy(logits: &[f32], labels: &[usize], classes: usize, smoothing: f64) -> Result<Loss, TrainError> {
    if labels.is_empty() || logits.len() != labels.len() * classes {
        let why = format!("{} logits for {} images of {classes} classes", logits.len(), labels.len());
        return Err(TrainError::setting("labels", why));
    }
    if let Some(label) = labels.iter().find(|l| **l >= classes) {
        return Err(TrainError::setting("labels", format!("label {label} is none of {classes} classes")));
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(TrainError::setting("label smoothing", format!("{smoothing} is outside [0, 1)")));
    }
    let (images, even) = (labels.len() as f64, smoothing / classes as f64);
    let mut loss = Loss { value: 0.0, gradient: Vec::with_capacity(logits.len()), right: 0 };
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        loss.right += usize::from(best.is_some_and(|(class, _)| class == label));
        let most = row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
        let total: f64 = row.iter().map(|v| (f64::from(*v) - most).exp()).sum();
        let log_total = most + total.ln();
        for (class, v) in row.iter().enumerate() {
            let target = even + if class == label { 1.0 - smoothing } else { 0.0 };
            let log_p = f64::from(*v) - log_total;
            loss.value -= target * log_p / images;
            loss.gradient.push(((log_p.exp() - target) / images) as f32);
        }
    }
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_and_smoothing_spreads_the_target() {
        let logits = [0.3f32, -1.0, 2.0, 0.0, 0.5, 0.1];
        for smoothing in [0.0, 0.1] {
            let loss = cross_entropy(&logits, &[2, 0], 3, smoothing).unwrap();
            assert_eq!(loss.right, 1);
            for i in 0..6 {
                let (mut up, mut down) = (logits, logits);
                up[i] += 1e-3;
                down[i] -= 1e-3;
                let value = |l: &[f32]| cross_entropy(l, &[2, 0], 3, smoothing).unwrap().value;
                let slope = (value(&up) - value(&down)) / 2e-3;
                assert!((slope - f64::from(loss.gradient[i])).abs() < 1e-4);
            }
        }
        assert!(cross_entropy(&logits, &[3, 0], 3, 0.0).is_err());
        assert!(cross_entropy(&logits, &[0], 3, 0.0).is_err());
        assert!(cross_entropy(&logits, &[0, 1], 3, 1.0).is_err());
    }
}
