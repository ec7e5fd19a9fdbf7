//! An allocator that counts, for tests that hold code to allocating nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for. A test takes it as its `#[global_allocator]`; tests run
/// side by side, so each thread has a count of its own.
#[derive(Debug, Default)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Allocations (new and grown) that this thread makes while `work` runs. Nothing is counted unless a
    /// `CountingAllocator` is the program's allocator.
    pub fn count(work: impl FnOnce()) -> usize {
        let before = ALLOCATIONS.get();
        work();
        ALLOCATIONS.get() - before
    }
}

fn count() {
    // a thread that is ending has no counter any more, and no test
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(start, layout) }
    }
}
