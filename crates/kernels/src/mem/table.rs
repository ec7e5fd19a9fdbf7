//! The pages of one head, in slot order, ready to be read without following a pointer for each.

use super::slab::{PageBuf, Slab};
use std::ptr::NonNull;
use std::sync::Arc;

/// Shared pages and, beside them, where each one's bytes are. Decoding visits every page of a long cache for every
/// token, and fetching the owner of each first would cost as much as reading a part of the page.
#[derive(Clone, Default)]
pub struct PageTable {
    owners: Vec<Arc<PageBuf>>,
    /// Bytes of `owners`, entry by entry.
    bytes: Vec<NonNull<[u8]>>,
}

// SAFETY: `bytes` points into pages that `owners` keeps alive; a PageBuf may be shared and sent.
unsafe impl Send for PageTable {}
// SAFETY: as above; through a shared table pages can only be read.
unsafe impl Sync for PageTable {}

impl PageTable {
    /// Number of pages.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The bytes of each page.
    pub fn slices(&self) -> &[&[u8]] {
        // SAFETY: a `&[u8]` is laid out as a `NonNull<[u8]>`; each entry points to the whole of a live page, which
        // nobody writes while `self` is borrowed: `page_mut` needs `&mut self`, and writes only a page that no other
        // table owns.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast::<&[u8]>(), self.bytes.len()) }
    }

    /// Adds a page at the end.
    pub fn push(&mut self, page: PageBuf) {
        self.bytes.push(page.whole());
        self.owners.push(Arc::new(page));
    }

    /// A page for writing. One that another table holds too is copied first, into a page of `slab`.
    ///
    /// # Panics
    /// If there is no such page, as indexing a slice would.
    pub fn page_mut(&mut self, index: usize, slab: &Arc<Slab>) -> &mut [u8] {
        if Arc::get_mut(&mut self.owners[index]).is_none() {
            let mut copy = slab.alloc();
            copy.copy_from_slice(&self.owners[index]);
            self.bytes[index] = copy.whole();
            self.owners[index] = Arc::new(copy);
        }
        Arc::get_mut(&mut self.owners[index]).expect("a page just copied has one owner")
    }

    /// Another owner of a page, which keeps its bytes as they are whatever happens to the table.
    pub fn share(&self, index: usize) -> Arc<PageBuf> {
        self.owners[index].clone()
    }

    /// Keeps the pages for whose number `keep` says so, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut number = 0;
        self.owners.retain(|_| {
            number += 1;
            keep(number - 1)
        });
        self.bytes.clear();
        self.bytes.extend(self.owners.iter().map(|page| page.whole()));
    }

    /// Drops every page from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.owners.truncate(len);
        self.bytes.truncate(len);
    }

    /// Drops the first `count` pages.
    pub fn drop_front(&mut self, count: usize) {
        self.owners.drain(..count);
        self.bytes.drain(..count);
    }

    /// Gives back room for pages that are gone.
    pub fn shrink_to_fit(&mut self) {
        self.owners.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    /// Pages that another table holds too.
    pub fn shared(&self) -> usize {
        self.owners.iter().filter(|page| Arc::strong_count(page) > 1).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_page_is_copied_before_it_is_written_and_the_slices_follow() {
        let slab = Slab::new(4096);
        let mut table = PageTable::default();
        for value in 0..3 {
            let mut page = slab.alloc();
            page.fill(value);
            table.push(page);
        }
        let other = table.clone();
        assert_eq!((table.shared(), slab.live_pages()), (3, 3));
        table.page_mut(1, &slab)[0] = 9;
        assert_eq!((table.slices()[1][0], other.slices()[1][0]), (9, 1));
        assert_eq!((table.shared(), slab.live_pages()), (2, 4));
        table.page_mut(1, &slab)[1] = 8;
        assert_eq!(&table.slices()[1][..3], [9, 8, 1]);
        let mut odd = table.clone();
        odd.retain(|page| page != 1);
        assert_eq!((odd.len(), odd.slices()[0][0], odd.slices()[1][0]), (2, 0, 2));
        drop(odd);
        table.drop_front(1);
        table.truncate(1);
        assert_eq!((table.len(), table.slices()[0][0]), (1, 9));
        drop(other);
        assert_eq!(slab.live_pages(), 1);
    }
}
