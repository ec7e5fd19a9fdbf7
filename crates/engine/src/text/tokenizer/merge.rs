//! Greedy merging of neighbours: the loop that byte-level BPE and SentencePiece BPE share.
//!
//! A text of n symbols is merged in O(n log n): symbols are a linked list in one vector, candidates wait in a heap
//! ordered by (key, position), and a candidate that went stale in the meantime is recognised by its length.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol: the end of the list. Also the id of a symbol that is no token.
pub(super) const NONE: u32 = u32::MAX;

/// A run of bytes of the text, perhaps a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// First byte.
    pub start: u32,
    /// Bytes; 0 once it was merged into its left neighbour.
    pub len: u32,
    /// Token id, or [`NONE`].
    pub id: u32,
    prev: u32,
    next: u32,
}

/// A pair that could be merged: smaller key first, then further left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: u32,
    left: u32,
    right: u32,
    len: u32,
    id: u32,
}

/// The working memory of a merge, reused from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
    initial: Vec<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the last text.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
    }

    /// Adds the next symbol of the text.
    pub(super) fn push(&mut self, start: u32, len: u32, id: u32) {
        let at = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { start, len, id, prev: at.wrapping_sub(1), next: NONE });
    }

    /// Merges until no pair is a candidate, then yields what is left in the order of the text. `pair` says what two
    /// neighbours make: the order key (least first) and the id of the whole.
    pub(super) fn merge(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        let candidate = |symbols: &[Symbol], left: u32, right: u32| {
            let (l, r) = (symbols.get(left as usize)?, symbols.get(right as usize)?);
            let (key, id) = pair(l, r)?;
            Some(Reverse(Candidate { key, left, right, len: l.len + r.len, id }))
        };
        let count = self.symbols.len() as u32;
        self.initial.clear();
        self.initial.extend((1..count).filter_map(|i| candidate(&self.symbols, i - 1, i)));
        // Building a heap of what is there takes linear time, pushing one by one would not.
        self.heap = BinaryHeap::from(std::mem::take(&mut self.initial));
        while let Some(Reverse(best)) = self.heap.pop() {
            let (l, r) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != best.len {
                continue;
            }
            let left = &mut self.symbols[best.left as usize];
            (left.len, left.id, left.next) = (best.len, best.id, r.next);
            let (prev, next) = (left.prev, left.next);
            self.symbols[best.right as usize].len = 0;
            if let Some(next) = self.symbols.get_mut(next as usize) {
                next.prev = best.left;
            }
            self.heap.extend(candidate(&self.symbols, prev, best.left));
            self.heap.extend(candidate(&self.symbols, best.left, next));
        }
        self.initial = std::mem::take(&mut self.heap).into_vec();
        self.symbols.iter().filter(|s| s.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges letters by a table of pairs; earlier pairs first.
    fn run(text: &str, pairs: &[&str]) -> Vec<String> {
        let mut merger = Merger::default();
        for i in 0..text.len() {
            merger.push(i as u32, 1, NONE);
        }
        let whole = |a: &Symbol, b: &Symbol| &text[a.start as usize..(b.start + b.len) as usize];
        let found = merger.merge(|a, b| {
            let rank = pairs.iter().position(|p| *p == whole(a, b))?;
            Some((rank as u32, rank as u32))
        });
        found.map(|s| text[s.start as usize..(s.start + s.len) as usize].to_owned()).collect()
    }

    #[test]
    fn the_least_key_merges_first_and_the_leftmost_of_equals() {
        assert_eq!(run("aaaaa", &["aa", "aaaa"]), ["aaaa", "a"]);
        assert_eq!(run("abcb", &["bc", "ab"]), ["a", "bc", "b"]);
        assert_eq!(run("abcb", &["ab", "bc", "abc"]), ["abc", "b"]);
        assert_eq!(run("", &["ab"]), Vec::<String>::new());
        assert_eq!(run("x", &["ab"]), ["x"]);
    }

    #[test]
    fn a_long_run_is_not_quadratic() {
        let text = "a".repeat(400_000);
        let pairs: Vec<String> = (1..12).map(|n| "a".repeat(1 << n)).collect();
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        let start = std::time::Instant::now();
        let found = run(&text, &pairs);
        assert_eq!(found.concat(), text);
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
