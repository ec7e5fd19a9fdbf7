//! One pool of slots shared out over several heads.

use crate::press::select::Protect;

/// A head that takes part.
pub(crate) struct PoolHead<'a> {
    /// Its scores.
    pub scores: &'a [f32],
    /// Its positions.
    pub positions: &'a [u32],
    /// What stays in any case.
    pub protect: Protect,
}

/// Choose `total` slots among all heads. In each head what is protected and the best, `safe` together at least, stay in
/// any case; the rest
/// goes to the best scores of the pool, equal scores to the lower position, then to the earlier head. Slots come out
/// ascending, one list a head.
pub(crate) fn pool(heads: &[PoolHead<'_>], total: usize, safe: usize) -> Vec<Vec<u32>> {
    let mut keep: Vec<Vec<u32>> = Vec::with_capacity(heads.len());
    let mut free: Vec<(usize, u32)> = Vec::new();
    for (number, head) in heads.iter().enumerate() {
        let mut order: Vec<u32> = (0..head.scores.len() as u32).collect();
        // what is protected counts towards the best that stay in any case
        let forced = |&slot: &u32| head.protect.covers(slot as usize, head.positions);
        let better = |a: &u32, b: &u32| {
            let by_score = head.scores[*b as usize].total_cmp(&head.scores[*a as usize]);
            forced(b).cmp(&forced(a)).then(by_score).then(a.cmp(b))
        };
        let safe = safe.min(order.len());
        if safe > 0 && safe < order.len() {
            order.select_nth_unstable_by(safe - 1, better);
        }
        let (mut stay, rest) = (order[..safe].to_vec(), &order[safe..]);
        for &slot in rest {
            if forced(&slot) { stay.push(slot) } else { free.push((number, slot)) }
        }
        keep.push(stay);
    }
    let forced: usize = keep.iter().map(Vec::len).sum();
    let wanted = total.saturating_sub(forced).min(free.len());
    if wanted > 0 && wanted < free.len() {
        let score = |&(head, slot): &(usize, u32)| heads[head].scores[slot as usize];
        let position = |&(head, slot): &(usize, u32)| heads[head].positions[slot as usize];
        free.select_nth_unstable_by(wanted - 1, |a, b| {
            score(b).total_cmp(&score(a)).then(position(a).cmp(&position(b))).then(a.0.cmp(&b.0))
        });
    }
    for &(head, slot) in &free[..wanted] {
        keep[head].push(slot);
    }
    keep.iter_mut().for_each(|slots| slots.sort_unstable());
    keep
}

/// The best slots of each head that stay in any case: a share of what a head keeps on average, at least one.
pub(crate) fn safeguard(target: usize, alpha: f64) -> usize {
    if alpha > 0.0 && target > 0 { ((target as f64 * alpha) as usize).max(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_exact_and_no_head_falls_below_its_safeguard() {
        let (strong, weak): (Vec<f32>, Vec<f32>) = ((0..10).map(|i| 10.0 + i as f32).collect(), vec![0.0; 10]);
        let positions: Vec<u32> = (0..10).collect();
        let head = |scores| PoolHead { scores, positions: &positions, protect: Protect::default() };
        let keep = pool(&[head(&strong), head(&weak)], 8, 2);
        assert_eq!(keep, [vec![4, 5, 6, 7, 8, 9], vec![0, 1]]);
    }

    #[test]
    fn equal_heads_share_evenly() {
        let scores: Vec<f32> = (0..9).map(|i| (i % 5) as f32).collect();
        let positions: Vec<u32> = (0..9).collect();
        let head = || PoolHead { scores: &scores, positions: &positions, protect: Protect { sinks: 1, recents: 1 } };
        let keep = pool(&[head(), head(), head()], 12, 1);
        assert!(keep.iter().all(|k| *k == keep[0]), "{keep:?}");
        assert_eq!(keep[0].len(), 4);
    }
}
