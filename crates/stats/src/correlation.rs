//! How two orders or two lists of numbers go together.

use crate::moments;

/// Pearson's correlation. `None` for different lengths, fewer than two pairs, or a list without spread.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 2 {
        return None;
    }
    let (mx, my) = (moments::mean(x), moments::mean(y));
    let cross = moments::sum(x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)));
    let square = |v: &[f64], m: f64| moments::sum(v.iter().map(|a| (a - m) * (a - m)));
    let spread = (square(x, mx) * square(y, my)).sqrt();
    (spread > 0.0).then(|| (cross / spread).clamp(-1.0, 1.0))
}

/// Ranks from 1, the smallest first; equal values share the mean of their ranks. `None` where a value is not a number.
pub fn mid_ranks(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        let rank = start as f64 + 0.5 * (same as f64 + 1.0);
        order[start..start + same].iter().for_each(|&i| ranks[i] = rank);
        start += same;
    }
    Some(ranks)
}

/// Ranks from 1, the largest first; equal values share the best of their ranks, as in competitions. Values that are not
/// numbers come last.
pub fn competition_ranks(values: &[f64]) -> Vec<usize> {
    values.iter().map(|v| 1 + values.iter().filter(|o| *o > v || (v.is_nan() && !o.is_nan())).count()).collect()
}

/// Spearman's correlation: Pearson's of the ranks. `None` as there.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&mid_ranks(x)?, &mid_ranks(y)?)
}

/// Kendall's tau-b: concordant minus discordant pairs over the root of pairs not tied in x times pairs not tied in y.
/// `None` for different lengths, values that are not numbers, or a list that is all ties.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.iter().chain(y).any(|v| v.is_nan()) {
        return None;
    }
    let (mut score, mut apart_x, mut apart_y) = (0.0f64, 0.0f64, 0.0f64);
    for i in 0..x.len() {
        for j in 0..i {
            let order = |v: &[f64]| v[i].partial_cmp(&v[j]).map_or(0.0, |o| f64::from(o as i8));
            let (a, b) = (order(x), order(y));
            score += a * b;
            apart_x += a.abs();
            apart_y += b.abs();
        }
    }
    let scale = (apart_x * apart_y).sqrt();
    (scale > 0.0).then(|| score / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_agrees_with_itself_and_opposes_its_reverse() {
        let x = [3.0, 1.0, 2.0, 2.0];
        let turned: Vec<f64> = x.iter().map(|v| -v).collect();
        for f in [kendall_tau_b, spearman, pearson] {
            assert!((f(&x, &x).unwrap() - 1.0).abs() < 1e-12);
            assert!((f(&x, &turned).unwrap() + 1.0).abs() < 1e-12);
            assert_eq!(f(&x, &[1.0; 4]), None);
            assert_eq!(f(&x, &[1.0]), None);
        }
    }

    #[test]
    fn equal_values_share_a_rank() {
        assert_eq!(mid_ranks(&[5.0, 1.0, 5.0]), Some(vec![2.5, 1.0, 2.5]));
        assert_eq!(competition_ranks(&[5.0, 1.0, 5.0, f64::NAN]), vec![1, 3, 1, 4]);
        assert_eq!(mid_ranks(&[f64::NAN]), None);
    }
}
