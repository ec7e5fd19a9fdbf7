//! The books of a slab: which page of which chunk is live, free but resident, or free and given back.
//!
//! Two bits a page. Everything that asks "the lowest" or "a run" is a scan over words, so a slab of 100 000 pages is
//! searched in a few microseconds and freeing is setting a bit.

/// A set of page numbers that knows how many it holds and where its lowest may be.
#[derive(Debug, Default)]
pub(super) struct PageSet {
    words: Vec<u64>,
    len: usize,
    /// No word before this one has a bit.
    first: usize,
}

impl PageSet {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn contains(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|w| w >> (page % 64) & 1 == 1)
    }

    pub fn insert(&mut self, page: usize) {
        let word = page / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (page % 64);
        self.len += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
        self.first = self.first.min(word);
    }

    pub fn remove(&mut self, page: usize) -> bool {
        if !self.contains(page) {
            return false;
        }
        self.words[page / 64] &= !(1 << (page % 64));
        self.len -= 1;
        true
    }

    /// The lowest page of the set.
    pub fn lowest(&mut self) -> Option<usize> {
        let skipped = self.words.get(self.first..)?.iter().position(|&w| w != 0);
        self.first = skipped.map_or(self.words.len(), |s| self.first + s);
        let word = self.words.get(self.first)?;
        Some(self.first * 64 + word.trailing_zeros() as usize)
    }

    /// The members in `from..to`, as runs of consecutive pages, low to high.
    pub fn runs(&self, from: usize, to: usize) -> Runs<'_> {
        Runs { set: self, at: from, to }
    }

    fn next_member(&self, from: usize, to: usize) -> Option<usize> {
        let mut at = from;
        while at < to {
            let word = self.words.get(at / 64)? >> (at % 64);
            if word != 0 {
                let page = at + word.trailing_zeros() as usize;
                return (page < to).then_some(page);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// Iterator of [`PageSet::runs`]: `(first page, pages)`.
pub(super) struct Runs<'a> {
    set: &'a PageSet,
    at: usize,
    to: usize,
}

impl Iterator for Runs<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let start = self.set.next_member(self.at, self.to)?;
        let mut end = start + 1;
        while end < self.to && self.set.contains(end) {
            end += 1;
        }
        self.at = end;
        Some((start, end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::PageSet;

    #[test]
    fn lowest_is_found_again_after_inserts_below_it() {
        let mut set = PageSet::default();
        assert_eq!(set.lowest(), None);
        for page in [700, 65, 64, 3] {
            set.insert(page);
            assert_eq!(set.lowest(), Some(page));
        }
        assert!(set.remove(3) && !set.remove(3));
        assert_eq!((set.lowest(), set.len()), (Some(64), 3));
    }

    #[test]
    fn runs_cross_words_and_stop_at_the_bounds() {
        let mut set = PageSet::default();
        for page in (60..70).chain([100]).chain(126..200) {
            set.insert(page);
        }
        let runs: Vec<_> = set.runs(62, 130).collect();
        assert_eq!(runs, [(62, 8), (100, 1), (126, 4)]);
        assert_eq!(set.runs(201, 10_000).next(), None);
    }
}
