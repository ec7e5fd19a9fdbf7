//! How far raters agree, beyond what their habits alone would give (Cohen 1960 and 1968, Fleiss 1971, Krippendorff 2011,
//! Gwet 2008).
//!
//! Categories are numbers `0..k`. Every function is pure and has no value (`None`) where its formula divides by zero: with
//! a single category in the data there is no disagreement that could be expected, so chance-corrected agreement is not 1
//! but undefined.

/// Share of items on which two raters agree. `None` without items or with different lengths.
pub fn percent(a: &[usize], b: &[usize]) -> Option<f64> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    Some(a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64)
}

/// How far apart two categories are in a weighted kappa, with `k` ordered categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// All differences alike: plain kappa.
    Nominal,
    /// `|i - j| / (k - 1)`.
    Linear,
    /// `((i - j) / (k - 1))²`.
    Quadratic,
}

impl Weight {
    fn of(self, i: usize, j: usize, k: usize) -> f64 {
        let far = i.abs_diff(j) as f64 / (k.max(2) - 1) as f64;
        match self {
            Weight::Nominal => f64::from(u8::from(i != j)),
            Weight::Linear => far,
            Weight::Quadratic => far * far,
        }
    }
}

/// Counts of pairs `(a, b)`, `k` by `k`, row by row. `None` with different lengths or a category of `k` or more.
pub fn table(a: &[usize], b: &[usize], k: usize) -> Option<Vec<Vec<f64>>> {
    if a.len() != b.len() || a.iter().chain(b).any(|&c| c >= k) {
        return None;
    }
    let mut counts = vec![vec![0.0; k]; k];
    a.iter().zip(b).for_each(|(&a, &b)| counts[a][b] += 1.0);
    Some(counts)
}

fn margins(counts: &[Vec<f64>]) -> Option<(Vec<f64>, Vec<f64>, f64)> {
    let k = counts.len();
    if counts.iter().any(|row| row.len() != k) {
        return None;
    }
    let rows: Vec<f64> = counts.iter().map(|row| row.iter().sum()).collect();
    let columns: Vec<f64> = (0..k).map(|c| counts.iter().map(|row| row[c]).sum()).collect();
    let n: f64 = rows.iter().sum();
    (n > 0.0).then_some((rows, columns, n))
}

/// Cohen's kappa of a square table of counts, weighted or not: one minus observed over expected disagreement. `None` for
/// an empty or ragged table and where no disagreement is expected.
pub fn cohen_kappa_table(counts: &[Vec<f64>], weight: Weight) -> Option<f64> {
    let (rows, columns, n) = margins(counts)?;
    let (mut observed, mut expected) = (0.0, 0.0);
    for (i, row) in counts.iter().enumerate() {
        for (j, count) in row.iter().enumerate() {
            let w = weight.of(i, j, counts.len());
            observed += w * count / n;
            expected += w * rows[i] * columns[j] / (n * n);
        }
    }
    (expected > 0.0).then(|| 1.0 - observed / expected)
}

/// Cohen's kappa of two raters over `k` categories. `None` as for [`table`] and [`cohen_kappa_table`].
pub fn cohen_kappa(a: &[usize], b: &[usize], k: usize, weight: Weight) -> Option<f64> {
    cohen_kappa_table(&table(a, b, k)?, weight)
}

/// Gwet's AC1 of a square table of counts; `k` is the table's size, the number of categories of the scheme. `None` for
/// fewer than two categories or an empty table.
pub fn gwet_ac1_table(counts: &[Vec<f64>]) -> Option<f64> {
    let (rows, columns, n) = margins(counts)?;
    let k = counts.len();
    if k < 2 {
        return None;
    }
    let agreed = (0..k).map(|c| counts[c][c]).sum::<f64>() / n;
    let chance: f64 =
        rows.iter().zip(&columns).map(|(r, c)| 0.5 * (r + c) / n).map(|p| p * (1.0 - p)).sum::<f64>() / (k - 1) as f64;
    (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance))
}

/// Agreement of many raters: the mean over items with two ratings or more of the share of agreeing pairs, and how many
/// items had fewer. `counts[i][c]` says how often item i was put into category c.
pub fn pairwise(counts: &[Vec<u32>]) -> Option<(f64, usize)> {
    let shares: Vec<f64> = counts.iter().filter_map(|row| pairs_agreeing(row)).collect();
    let left_out = counts.len() - shares.len();
    (!shares.is_empty()).then(|| (shares.iter().sum::<f64>() / shares.len() as f64, left_out))
}

fn pairs_agreeing(row: &[u32]) -> Option<f64> {
    let m: f64 = row.iter().copied().map(f64::from).sum();
    (m >= 2.0).then(|| row.iter().map(|&c| f64::from(c) * (f64::from(c) - 1.0)).sum::<f64>() / (m * (m - 1.0)))
}

/// Fleiss' kappa. `counts[i][c]` says how often item i was put into category c; every item has the same number of
/// ratings, at least two. `None` otherwise, and where only one category occurs.
pub fn fleiss_kappa(counts: &[Vec<u32>]) -> Option<f64> {
    let first: u32 = counts.first()?.iter().sum();
    let k = counts.first()?.len();
    if first < 2 || counts.iter().any(|row| row.len() != k || row.iter().sum::<u32>() != first) {
        return None;
    }
    let (agreed, _) = pairwise(counts)?;
    let all = (counts.len() * first as usize) as f64;
    let chance: f64 =
        (0..k).map(|c| counts.iter().map(|row| f64::from(row[c])).sum::<f64>() / all).map(|p| p * p).sum();
    (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance))
}

/// What makes two values differ in Krippendorff's alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Names: equal or not.
    Nominal,
    /// Ranks: how many values lie between.
    Ordinal,
    /// Numbers: squared difference.
    Interval,
    /// Numbers with a zero: squared difference over squared sum.
    Ratio,
}

/// Krippendorff's alpha. `ratings[r][u]` is what rater r said of unit u, `None` where nothing; values may be any finite
/// numbers. `None` for ragged ratings, values that are not finite, fewer than two pairable values, or one value only.
pub fn krippendorff_alpha(ratings: &[Vec<Option<f64>>], scale: Scale) -> Option<f64> {
    let units = ratings.first()?.len();
    if ratings.iter().any(|r| r.len() != units || r.iter().flatten().any(|v| !v.is_finite())) {
        return None;
    }
    let mut values: Vec<f64> = ratings.iter().flatten().flatten().map(|v| v + 0.0).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let k = values.len();
    let mut coincidences = vec![vec![0.0; k]; k];
    for unit in 0..units {
        let said: Vec<usize> =
            ratings.iter().filter_map(|r| r[unit]).map(|v| values.partition_point(|&x| x < v)).collect();
        if said.len() < 2 {
            continue;
        }
        let share = 1.0 / (said.len() - 1) as f64;
        for (i, &a) in said.iter().enumerate() {
            said.iter().enumerate().filter(|&(j, _)| j != i).for_each(|(_, &b)| coincidences[a][b] += share);
        }
    }
    let totals: Vec<f64> = coincidences.iter().map(|row| row.iter().sum()).collect();
    let n: f64 = totals.iter().sum();
    let (mut observed, mut expected) = (0.0, 0.0);
    for a in 0..k {
        for b in 0..k {
            let d = distance(scale, (a, b), &values, &totals);
            observed += coincidences[a][b] * d;
            expected += totals[a] * totals[b] * d;
        }
    }
    (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
}

fn distance(scale: Scale, (a, b): (usize, usize), values: &[f64], totals: &[f64]) -> f64 {
    if a == b {
        return 0.0;
    }
    let (x, y) = (values[a], values[b]);
    match scale {
        Scale::Nominal => 1.0,
        Scale::Ordinal => {
            let between: f64 = totals[a.min(b)..=a.max(b)].iter().sum();
            (between - 0.5 * (totals[a] + totals[b])).powi(2)
        }
        Scale::Interval => (x - y).powi(2),
        Scale::Ratio => ((x - y) / (x + y)).powi(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 6e-7, "{value}, expected {expected}");
    }

    #[test]
    fn textbook_tables_give_their_printed_values() {
        let two = [vec![20.0, 5.0], vec![10.0, 15.0]];
        near(cohen_kappa_table(&two, Weight::Nominal), 0.4);
        near(gwet_ac1_table(&two), 0.405941);
        let fourteen: Vec<Vec<u32>> = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
        .map(|row| row.to_vec())
        .to_vec();
        near(fleiss_kappa(&fourteen), 0.209931);
        near(pairwise(&fourteen).map(|p| p.0), 0.378022);
    }

    #[test]
    fn krippendorff_gives_the_values_of_his_own_example() {
        let raters: Vec<Vec<Option<f64>>> = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
            .map(|row| row.chars().map(|c| c.to_digit(10).map(f64::from)).collect())
            .to_vec();
        near(krippendorff_alpha(&raters, Scale::Nominal), 0.743421);
        near(krippendorff_alpha(&raters, Scale::Ordinal), 0.815388);
        near(krippendorff_alpha(&raters, Scale::Interval), 0.849107);
        near(krippendorff_alpha(&raters, Scale::Ratio), 0.797403);
    }

    #[test]
    fn two_categories_weighted_are_plain_kappa_and_order_of_raters_says_nothing() {
        let a = [0, 1, 1, 0, 1, 0, 0, 1];
        let b = [0, 1, 0, 0, 1, 1, 0, 1];
        let plain = cohen_kappa(&a, &b, 2, Weight::Nominal).unwrap();
        for weight in [Weight::Linear, Weight::Quadratic] {
            assert!((cohen_kappa(&a, &b, 2, weight).unwrap() - plain).abs() < 1e-12);
        }
        assert_eq!(cohen_kappa(&b, &a, 2, Weight::Nominal), Some(plain));
        assert_eq!(cohen_kappa(&a, &a, 2, Weight::Nominal), Some(1.0));
    }

    #[test]
    fn where_nothing_could_differ_agreement_is_undefined() {
        assert_eq!(cohen_kappa(&[1, 1], &[1, 1], 2, Weight::Nominal), None);
        assert_eq!(fleiss_kappa(&[vec![3, 0], vec![3, 0]]), None);
        assert_eq!(fleiss_kappa(&[vec![3, 0], vec![1, 1]]), None);
        assert_eq!(krippendorff_alpha(&[vec![Some(1.0)], vec![Some(1.0)]], Scale::Nominal), None);
        assert_eq!(krippendorff_alpha(&[vec![Some(1.0)], vec![None]], Scale::Nominal), None);
        assert_eq!(percent(&[], &[]), None);
        assert_eq!(table(&[2], &[0], 2), None);
        assert_eq!(gwet_ac1_table(&[vec![4.0]]), None);
        assert_eq!(pairwise(&[vec![1, 0]]), None);
    }
}
