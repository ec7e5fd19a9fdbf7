//! A slab: pages of one size, handed out one by one, and given back to the operating system when they are free.
//!
//! Pages live in chunks of mapped memory that never move, so a page's address is good for as long as its [`PageBuf`].
//! The lowest free page is always handed out first: live pages gather at the low end and chunks at the high end
//! become empty, which lets them be unmapped. A page that was just freed is worth keeping for a moment (decoding with
//! a press frees and takes pages all the time), so a few stay resident; and since a press drops thousands at once,
//! giving back waits until enough have gathered to be handed over in runs, not one system call a page.

use super::pages::PageSet;
use super::{OS_PAGE, os};
use crate::KernelError;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Mapped at a time; big enough that mapping is rare, small enough that an empty one is soon found.
const CHUNK_BYTES: usize = 2 << 20;
/// Free bytes that stay resident for the next allocations.
const RESERVE_BYTES: usize = 64 << 10;
/// Free resident bytes, above the reserve, that make it worth calling the system.
const BATCH_BYTES: usize = 256 << 10;

/// Pages of one size; see the file's comment. Cheap to share; every method takes a short lock.
#[derive(Debug)]
pub struct Slab {
    page_bytes: usize,
    chunk_pages: usize,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Page `p` is page `p % chunk_pages` of chunk `p / chunk_pages`; `None` is a chunk that was unmapped.
    chunks: Vec<Option<Chunk>>,
    /// Pages that may be handed out.
    free: PageSet,
    /// The free pages among them that still hold memory.
    resident: PageSet,
    live: usize,
    peak: usize,
}

#[derive(Debug)]
struct Chunk {
    start: NonNull<u8>,
    live: usize,
}

// SAFETY: a chunk is plain memory owned by its slab; the pointer is only an address, and each page of it is reached
// through exactly one PageBuf.
unsafe impl Send for Chunk {}

impl Slab {
    /// A slab of pages of `page_bytes`; maps nothing yet.
    ///
    /// # Panics
    /// If `page_bytes` is 0 or no multiple of 4096.
    pub fn new(page_bytes: usize) -> Arc<Slab> {
        assert!(
            page_bytes > 0 && page_bytes.is_multiple_of(OS_PAGE),
            "a slab's pages are a multiple of {OS_PAGE} bytes, not {page_bytes}"
        );
        let chunk_pages = (CHUNK_BYTES / page_bytes).max(1);
        Arc::new(Slab { page_bytes, chunk_pages, books: Mutex::default() })
    }

    /// Hands out the lowest free page. Its content is NOT specified: zeros, or what its last owner left.
    ///
    /// # Aborts
    /// When the system refuses memory, like every allocation in Rust; [`try_alloc`](Self::try_alloc) says so instead.
    pub fn alloc(self: &Arc<Self>) -> PageBuf {
        self.try_alloc().unwrap_or_else(|_| {
            let layout = std::alloc::Layout::from_size_align(self.page_bytes, OS_PAGE);
            std::alloc::handle_alloc_error(layout.unwrap_or(std::alloc::Layout::new::<u8>()))
        })
    }

    /// [`alloc`](Self::alloc) with an error when the system refuses memory.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn try_alloc(self: &Arc<Self>) -> Result<PageBuf, KernelError> {
        let mut books = self.books();
        let index = match books.free.lowest() {
            Some(index) => index,
            None => self.grow(&mut books)?,
        };
        let (chunk, page) = (index / self.chunk_pages, index % self.chunk_pages);
        let Some(chunk) = &mut books.chunks[chunk] else {
            unreachable!("the pages of an unmapped chunk are not free");
        };
        chunk.live += 1;
        // SAFETY: page < chunk_pages, so the offset is inside the chunk's mapping.
        let start = unsafe { chunk.start.add(page * self.page_bytes) };
        books.free.remove(index);
        books.resident.remove(index);
        books.live += 1;
        books.peak = books.peak.max(books.live);
        Ok(PageBuf { slab: Arc::clone(self), start, index })
    }

    /// Frees many pages under one lock and gives memory back once, in the longest runs there are.
    pub fn free_all(self: &Arc<Self>, pages: Vec<PageBuf>) {
        let (ours, theirs): (Vec<_>, Vec<_>) = pages.into_iter().partition(|p| Arc::ptr_eq(&p.slab, self));
        drop(theirs);
        let mut books = self.books();
        for page in ours {
            self.take_back(&mut books, page);
        }
        self.settle(&mut books);
    }

    /// Bytes a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pages handed out now.
    pub fn live_pages(&self) -> usize {
        self.books().live
    }

    /// Pages that are free but still hold memory.
    pub fn reserve_pages(&self) -> usize {
        self.books().resident.len()
    }

    /// The most pages that were handed out at one time since the slab was made or [`reset_peak`](Self::reset_peak).
    pub fn peak_pages(&self) -> usize {
        self.books().peak
    }

    /// Starts counting the peak from what is handed out now.
    pub fn reset_peak(&self) {
        let mut books = self.books();
        books.peak = books.live;
    }

    /// Bytes of address space mapped now; memory that is not resident costs nothing but page tables.
    pub fn mapped_bytes(&self) -> usize {
        self.books().chunks.iter().flatten().count() * self.chunk_bytes()
    }

    /// Gives back every free page, the reserve too.
    pub fn trim(&self) {
        self.release(&mut self.books(), 0);
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_pages * self.page_bytes
    }

    /// The books are consistent between any two statements that can panic, so a poisoned lock is still good.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps one more chunk and returns its first page.
    fn grow(&self, books: &mut Books) -> Result<usize, KernelError> {
        let bytes = self.chunk_bytes();
        let start = os::map(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        let chunk = Some(Chunk { start, live: 0 });
        let at = match books.chunks.iter().position(Option::is_none) {
            Some(hole) => {
                books.chunks[hole] = chunk;
                hole
            }
            None => {
                books.chunks.push(chunk);
                books.chunks.len() - 1
            }
        };
        let first = at * self.chunk_pages;
        (first..first + self.chunk_pages).for_each(|page| books.free.insert(page));
        Ok(first)
    }

    /// What dropping `page` does, under a lock that is already held. The caller's handle keeps the slab alive, so
    /// letting go of the page's own cannot be what ends it.
    fn take_back(self: &Arc<Self>, books: &mut Books, page: PageBuf) {
        let page = std::mem::ManuallyDrop::new(page);
        self.mark_free(books, page.index);
        // SAFETY: `page` is never used or dropped again, so the handle is moved out exactly once.
        drop(unsafe { std::ptr::read(&page.slab) });
    }

    fn mark_free(&self, books: &mut Books, index: usize) {
        books.free.insert(index);
        books.resident.insert(index);
        books.live -= 1;
        if let Some(chunk) = &mut books.chunks[index / self.chunk_pages] {
            chunk.live -= 1;
        }
    }

    /// Gives memory back if enough free pages have gathered.
    fn settle(&self, books: &mut Books) {
        let reserve = RESERVE_BYTES / self.page_bytes;
        if books.resident.len() > reserve + BATCH_BYTES / self.page_bytes {
            self.release(books, reserve);
        }
    }

    /// Gives free memory back, chunk by chunk from the top, until `keep` free pages are resident: the lowest, which
    /// are the next to be handed out. A chunk without live pages is unmapped as a whole.
    fn release(&self, books: &mut Books, keep: usize) {
        for at in (0..books.chunks.len()).rev() {
            let Some(chunk) = &books.chunks[at] else { continue };
            let (first, end) = (at * self.chunk_pages, (at + 1) * self.chunk_pages);
            let runs: Vec<(usize, usize)> = books.resident.runs(first, end).collect();
            let here: usize = runs.iter().map(|(_, pages)| pages).sum();
            if chunk.live == 0 && books.resident.len() - here >= keep {
                // SAFETY: no page of the chunk is live, so nothing refers into it, and its pages leave `free` below.
                unsafe { os::unmap(chunk.start, self.chunk_bytes()) };
                books.chunks[at] = None;
                for page in first..end {
                    books.free.remove(page);
                    books.resident.remove(page);
                }
                continue;
            }
            let start = chunk.start;
            for (run, pages) in runs.into_iter().rev() {
                let surplus = pages.min(books.resident.len().saturating_sub(keep));
                if surplus == 0 {
                    return;
                }
                let from = run + pages - surplus;
                // SAFETY: the run is inside the chunk, and its pages are free: no PageBuf refers to them.
                unsafe { os::discard(start.add((from - first) * self.page_bytes), surplus * self.page_bytes) };
                (from..run + pages).for_each(|page| {
                    books.resident.remove(page);
                });
            }
        }
        while let Some(None) = books.chunks.last() {
            books.chunks.pop();
        }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let bytes = self.chunk_bytes();
        for chunk in self.books().chunks.drain(..).flatten() {
            // SAFETY: every PageBuf holds the slab alive, so none is left.
            unsafe { os::unmap(chunk.start, bytes) };
        }
    }
}

/// One page, owned: 4096-aligned, given back to its slab when dropped.
pub struct PageBuf {
    slab: Arc<Slab>,
    start: NonNull<u8>,
    index: usize,
}

// SAFETY: a PageBuf is the only way to its page, and hands out references by the usual borrow rules.
unsafe impl Send for PageBuf {}
// SAFETY: through a shared PageBuf the page can only be read.
unsafe impl Sync for PageBuf {}

impl PageBuf {
    /// The slab the page belongs to.
    pub fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// Where its bytes are.
    pub(super) fn whole(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.slab.page_bytes)
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the page is mapped, initialised (by the system or by its last owner) and ours while `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.slab.page_bytes) }
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.slab.page_bytes) }
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        let mut books = self.slab.books();
        self.slab.mark_free(&mut books, self.index);
        self.slab.settle(&mut books);
    }
}

impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuf {{ page {} of {} bytes }}", self.index, self.slab.page_bytes)
    }
}
