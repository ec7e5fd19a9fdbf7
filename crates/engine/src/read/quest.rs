//! Quest: a decoded token attends to the pages whose keys can give it the largest logits (Tang et al., Quest:
//! Query-Aware Sparsity for Efficient Long-Context LLM Inference, arXiv 2406.10774).
//!
//! Each page knows the smallest and the largest value of every key channel. They bound every logit of the page from
//! above; the pages of largest bound are attended, all others are passed over. A kv head chooses for its whole group
//! of query heads, by the largest bound of any of them.

use meden_kernels::attention::bounds::{key_bounds, largest_logit};
use meden_kernels::isa::Isa;
use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;

/// Name of the page data that holds the bounds: (2, key_dim), of the keys as they are stored.
const BOUNDS: &str = "key_bounds";

/// Parameters of Quest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quest {
    /// Tokens a head that a decoded token reads at most, in whole pages.
    pub budget: usize,
    /// Layers that are read whole: the first two, where attention is spread widely (the paper's choice).
    #[serde(default = "first_two")]
    pub skip_layers: Vec<usize>,
    /// Pages a head that are read at least, whatever the budget.
    #[serde(default = "three")]
    pub min_pages: usize,
}

fn first_two() -> Vec<usize> {
    vec![0, 1]
}

fn three() -> usize {
    3
}

impl Quest {
    /// The paper's parameters with a budget of tokens a head.
    pub fn new(budget: usize) -> Quest {
        Quest { budget, skip_layers: first_two(), min_pages: three() }
    }

    /// Pages a head that are read, of `tokens` slots each.
    pub(crate) fn pages(&self, tokens: usize) -> usize {
        (self.budget / tokens.max(1)).max(self.min_pages)
    }
}

/// The bounds of every page that has none yet, the newest excepted: it is always read, and the next token may change
/// it.
pub(super) fn refresh(head: &mut HeadCache) {
    let layout = head.layout();
    let mut bounds = Vec::new();
    let newest = head.pages().len().saturating_sub(1);
    head.fill_side(BOUNDS, 0..newest, |page, slots| {
        key_bounds(&layout, page, slots, &mut bounds);
        bounds.clone()
    });
}

/// Writes the numbers, ascending, of the `count` pages to read: the newest, and those that can give one of `queries`
/// (the group's, of key_dim each) the largest logit; of equals the older. Bounds must be fresh.
pub(super) fn choose(head: &HeadCache, isa: Isa, queries: &[f32], count: usize, chosen: &mut Vec<(f32, usize)>) {
    chosen.clear();
    let Some(newest) = head.pages().len().checked_sub(1) else { return };
    let bounds = head.side(BOUNDS).unwrap_or_default();
    for page in 0..newest {
        // A page without bounds, and one whose keys are damaged, cannot be ruled out.
        let bound = bounds.get(page).and_then(|b| b.as_deref()).map_or(f32::NAN, |b| largest_logit(isa, queries, b));
        chosen.push((if bound.is_nan() { f32::INFINITY } else { bound }, page));
    }
    let rest = count.saturating_sub(1);
    if rest < chosen.len() {
        if rest > 0 {
            chosen.select_nth_unstable_by(rest - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        chosen.truncate(rest);
    }
    chosen.push((f32::INFINITY, newest));
    chosen.sort_unstable_by_key(|&(_, page)| page);
}

/// Bytes of a page's bounds.
pub(crate) fn bound_bytes(key_dim: usize) -> usize {
    2 * key_dim * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_kernels::attention::{KvType, PageLayout};
    use meden_kernels::mem::Slab;

    const DIM: usize = 16;

    /// `tokens` keys whose channels all have the value `of(position)`.
    fn head(tokens: u32, of: impl Fn(u32) -> f32) -> HeadCache {
        let layout = PageLayout::new(DIM, DIM, KvType::F32, KvType::F32);
        let mut head = HeadCache::new(layout, Slab::new(layout.page_bytes()));
        for position in 0..tokens {
            head.push(position, &[of(position); DIM], &[0.0; DIM]);
        }
        head
    }

    fn chosen(head: &mut HeadCache, queries: &[f32], count: usize) -> Vec<usize> {
        refresh(head);
        let mut chosen = vec![];
        choose(head, Isa::best(), queries, count, &mut chosen);
        chosen.iter().map(|c| c.1).collect()
    }

    /// The largest bound, from the keys themselves.
    fn check_bounds(head: &HeadCache) {
        let tokens = head.layout().tokens();
        let sides = head.side(BOUNDS).unwrap_or_default();
        let mut key = [0.0; DIM];
        for (page, bounds) in sides.iter().enumerate() {
            let Some(bounds) = bounds else { continue };
            for slot in page * tokens..head.len().min((page + 1) * tokens) {
                head.key(slot, &mut key);
                for (i, k) in key.iter().enumerate() {
                    assert!(bounds[i] <= *k && *k <= bounds[DIM + i], "page {page}, slot {slot}: {k} is outside");
                }
            }
        }
    }

    #[test]
    fn the_pages_of_largest_bound_and_the_newest_are_read() {
        let mut head = head(2000, |p| (p as f32 * 0.37).sin());
        let tokens = head.layout().tokens() as u32;
        let pages = head.pages().len();
        assert!(pages > 8, "{pages} pages");
        // A needle in page 3, a lesser one in page 6.
        let mut with = |position: u32, value: f32| {
            let mut other = head_with(&head, position, value);
            std::mem::swap(&mut head, &mut other);
        };
        with(3 * tokens + 5, 9.0);
        with(6 * tokens + 1, 5.0);
        let newest = pages - 1;
        assert_eq!(chosen(&mut head, &[1.0; DIM], 2), [3, newest]);
        assert_eq!(chosen(&mut head, &[1.0; DIM], 3), [3, 6, newest]);
        assert_eq!(chosen(&mut head, &[1.0; DIM], 1), [newest]);
        assert_eq!(chosen(&mut head, &[1.0; DIM], 500), (0..pages).collect::<Vec<_>>());
        // In a group the largest bound of any query counts, whichever comes first.
        let group = [[1.0; DIM], [0.0; DIM]].concat();
        assert_eq!(chosen(&mut head, &group, 2), [3, newest]);
        let group = [[0.0; DIM], [1.0; DIM]].concat();
        assert_eq!(chosen(&mut head, &group, 2), [3, newest]);
    }

    fn head_with(from: &HeadCache, position: u32, value: f32) -> HeadCache {
        let mut key = [0.0; DIM];
        let mut keys = vec![];
        for slot in 0..from.len() {
            from.key(slot, &mut key);
            keys.push(key[0]);
        }
        keys[position as usize] = value;
        head(from.len() as u32, |p| keys[p as usize])
    }

    #[test]
    fn a_page_with_a_damaged_key_is_always_read() {
        let mut head = head(2000, |p| if p == 700 { f32::NAN } else { 1.0 });
        let page = 700 / head.layout().tokens();
        let newest = head.pages().len() - 1;
        assert_eq!(chosen(&mut head, &[1.0; DIM], 2), [page, newest]);
    }

    #[test]
    fn evictions_rewinds_appends_and_forks_leave_no_stale_bound() {
        let mut head = head(1500, |p| (p as f32 * 1.3).sin());
        refresh(&mut head);
        check_bounds(&head);
        let mut fork = head.clone();
        let keep: Vec<u32> = (0..1500).filter(|p| p % 3 != 0).collect();
        head.retain(&keep);
        check_bounds(&head);
        refresh(&mut head);
        check_bounds(&head);
        head.truncate(500);
        for position in 5000..5100 {
            head.push(position, &[position as f32; DIM], &[0.0; DIM]);
            check_bounds(&head);
        }
        refresh(&mut head);
        check_bounds(&head);
        head.drop_front_pages(700);
        check_bounds(&head);
        // The fork stands where it stood, and goes its own way.
        check_bounds(&fork);
        fork.truncate(100);
        fork.push(9000, &[1e6; DIM], &[0.0; DIM]);
        refresh(&mut fork);
        check_bounds(&fork);
        let filled = |head: &HeadCache| head.side(BOUNDS).map_or(0, |s| s.iter().flatten().count());
        assert_eq!(filled(&head), head.pages().len() - 1, "every page but the newest has bounds");
        assert_eq!(filled(&fork), fork.pages().len() - 1);
    }
}
