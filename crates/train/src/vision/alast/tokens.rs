//! Which patches go on.

/// Patches that go on of `n` tokens, `prefix` of which (class token, distilled, registers) always do. `floor(b n)` with n
/// counting the class token and the patches, at most all of them, at least `least`, rounded up to a multiple of `bucket`.
pub fn keep_count(budget: f64, (n, prefix): (usize, usize), least: usize, bucket: usize) -> usize {
    let patches = n - prefix;
    let wanted = (budget * (patches + 1) as f64).floor() as usize;
    wanted.max(least).next_multiple_of(bucket.max(1)).min(patches)
}

/// Indices of the tokens that go on, ascending: the first `prefix`, and of the others the `count` with the highest
/// scores, of equal scores the lower index. `scores` has one value a token.
pub fn select(scores: &[f32], prefix: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (prefix..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.extend(0..prefix);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_budgets_give_the_sequence_of_the_specification() {
        let chain = |b: f64| {
            let mut n = 197;
            (0..11)
                .map(|_| {
                    n = 1 + keep_count(b, (n, 1), 1, 1);
                    n
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(chain(0.9), [178, 161, 145, 131, 118, 107, 97, 88, 80, 73, 66]);
        assert_eq!(chain(0.5), [99, 50, 26, 14, 8, 5, 3, 2, 2, 2, 2]);
        assert_eq!(chain(1.0), [197; 11]);
    }

    #[test]
    fn least_bucket_and_prefix_are_respected() {
        assert_eq!(keep_count(0.5, (17, 1), 8, 1), 8);
        assert_eq!(keep_count(0.5, (21, 5), 1, 1), keep_count(0.5, (17, 1), 1, 1));
        assert_eq!(keep_count(0.5, (5, 1), 8, 1), 4);
        assert_eq!(keep_count(0.6, (17, 1), 1, 8), 16);
    }

    #[test]
    fn the_best_survive_in_order_and_ties_go_to_the_lower_index() {
        let scores = [9.0, 0.1, 0.5, 0.5, 0.2, 0.5];
        assert_eq!(select(&scores, 1, 2), [0, 2, 3]);
        assert_eq!(select(&scores, 1, 4), [0, 2, 3, 4, 5]);
        assert_eq!(select(&scores, 2, 1), [0, 1, 2]);
        assert_eq!(select(&scores, 1, 0), [0]);
    }
}
