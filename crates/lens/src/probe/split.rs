//! Splits that never part a group.

use meden_stats::Rng;

use super::ProbeError;

/// Gives each row one of `folds` folds, all rows of a group the same one. Groups are shuffled by `seed`, then each, the
/// largest first, goes to the fold with the fewest rows, so that folds are about equal.
///
/// # Errors
/// Fewer than two folds, or fewer groups than folds.
pub fn folds(groups: &[u32], folds: usize, seed: u64) -> Result<Vec<u32>, ProbeError> {
    if folds < 2 {
        return Err(ProbeError::Setting { field: "folds", value: folds.to_string(), allowed: "2 and more" });
    }
    let mut sizes: Vec<(u32, usize)> = Vec::new();
    let mut place = std::collections::HashMap::new();
    for &group in groups {
        let at = *place.entry(group).or_insert_with(|| {
            sizes.push((group, 0));
            sizes.len() - 1
        });
        sizes[at].1 += 1;
    }
    if sizes.len() < folds {
        return Err(ProbeError::TooFew { what: "groups".to_owned(), found: sizes.len(), needed: folds });
    }
    Rng::new(seed, 0).shuffle(&mut sizes);
    // the shuffle stays the order among groups of one size
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let mut filled = vec![0usize; folds];
    let mut fold_of = std::collections::HashMap::new();
    for (group, size) in sizes {
        let least = (0..folds).min_by_key(|&f| filled[f]).unwrap_or(0);
        filled[least] += size;
        fold_of.insert(group, least as u32);
    }
    Ok(groups.iter().map(|group| fold_of[group]).collect())
}

/// Marks the rows of about `share` of the groups (at least one, never all) as test rows.
///
/// # Errors
/// A share outside (0, 1), fewer than two groups.
pub fn hold_out(groups: &[u32], share: f64, seed: u64) -> Result<Vec<bool>, ProbeError> {
    if !(share > 0.0 && share < 1.0) {
        let value = share.to_string();
        return Err(ProbeError::Setting { field: "test share", value, allowed: "above 0 and below 1" });
    }
    let mut all: Vec<u32> = groups.to_vec();
    all.sort_unstable();
    all.dedup();
    if all.len() < 2 {
        return Err(ProbeError::TooFew { what: "groups".to_owned(), found: all.len(), needed: 2 });
    }
    Rng::new(seed, 0).shuffle(&mut all);
    let count = ((share * all.len() as f64).round() as usize).clamp(1, all.len() - 1);
    let test: std::collections::HashSet<u32> = all[..count].iter().copied().collect();
    Ok(groups.iter().map(|group| test.contains(group)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_whole_and_folds_are_about_equal() {
        let groups: Vec<u32> = (0..400u32).map(|i| i % 37).collect();
        let of = folds(&groups, 5, 1).unwrap();
        for (g, f) in groups.iter().zip(&of) {
            let first = groups.iter().position(|x| x == g).unwrap();
            assert_eq!(of[first], *f);
        }
        for fold in 0..5 {
            let rows = of.iter().filter(|f| **f == fold).count();
            assert!((70..=90).contains(&rows), "{rows}");
        }
        assert_eq!(folds(&groups, 5, 1).unwrap(), of);
        assert_ne!(folds(&groups, 5, 2).unwrap(), of);
        assert!(matches!(folds(&[1, 1, 2], 3, 0), Err(ProbeError::TooFew { found: 2, needed: 3, .. })));
        assert!(folds(&[1, 2], 1, 0).is_err());
    }

    #[test]
    fn held_out_groups_are_whole_and_about_the_share() {
        let groups: Vec<u32> = (0..300).map(|i| i / 3).collect();
        let test = hold_out(&groups, 0.2, 666).unwrap();
        assert_eq!(test.iter().filter(|t| **t).count(), 60);
        assert!(groups.chunks(3).zip(test.chunks(3)).all(|(_, t)| t.iter().all(|x| *x == t[0])));
        assert!(hold_out(&groups, 1.0, 0).is_err() && hold_out(&[1, 1], 0.5, 0).is_err());
    }
}
