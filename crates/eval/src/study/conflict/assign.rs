//! The cheapest way to give each row a column of its own (Kuhn's Hungarian method, in the O(n^3) form with potentials).

/// The column of each row, for a square matrix of costs, row-major. Equal costs are decided by the order of rows and
/// columns, so the answer is always the same.
pub(super) fn cheapest(cost: &[f64], n: usize) -> Vec<usize> {
    // index 0 stands for "none"; rows and columns count from 1
    let mut row_potential = vec![0.0; n + 1];
    let mut column_potential = vec![0.0; n + 1];
    let mut row_of = vec![0usize; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let mut column = 0;
        let mut least = vec![f64::INFINITY; n + 1];
        let mut from = vec![0usize; n + 1];
        let mut used = vec![false; n + 1];
        loop {
            used[column] = true;
            let at = row_of[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for j in (1..=n).filter(|&j| !used[j]) {
                let reduced = cost[(at - 1) * n + j - 1] - row_potential[at] - column_potential[j];
                if reduced < least[j] {
                    least[j] = reduced;
                    from[j] = column;
                }
                if least[j] < step {
                    step = least[j];
                    next = j;
                }
            }
            for j in 0..=n {
                if used[j] {
                    row_potential[row_of[j]] += step;
                    column_potential[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            column = next;
            if row_of[column] == 0 {
                break;
            }
        }
        while column != 0 {
            row_of[column] = row_of[from[column]];
            column = from[column];
        }
    }
    let mut column_of = vec![0; n];
    (1..=n).for_each(|j| column_of[row_of[j] - 1] = j - 1);
    column_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    #[test]
    fn it_is_the_best_of_all_orders() {
        let orders = |n: usize| -> Vec<Vec<usize>> {
            let mut all = vec![vec![]];
            for _ in 0..n {
                all = all
                    .into_iter()
                    .flat_map(|o: Vec<usize>| {
                        (0..n).filter(|j| !o.contains(j)).map(|j| [o.clone(), vec![j]].concat()).collect::<Vec<_>>()
                    })
                    .collect();
            }
            all
        };
        for seed in 0..30 {
            let mut rng = Rng::new(seed, 0);
            let n = 1 + (seed as usize) % 6;
            let cost: Vec<f64> = (0..n * n).map(|_| rng.below(7) as f64).collect();
            let total = |o: &[usize]| (0..n).map(|i| cost[i * n + o[i]]).sum::<f64>();
            let best = orders(n).iter().map(|o| total(o)).fold(f64::INFINITY, f64::min);
            let found = cheapest(&cost, n);
            assert_eq!(total(&found), best, "{cost:?}");
            let mut columns = found;
            columns.sort_unstable();
            assert_eq!(columns, (0..n).collect::<Vec<_>>());
        }
        assert!(cheapest(&[], 0).is_empty());
    }
}
