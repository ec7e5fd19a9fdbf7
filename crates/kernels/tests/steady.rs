//! Attention allocates nothing once its buffers have grown: decoding must not depend on the allocator's mood.

#![allow(unsafe_code)]

use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, HeadView, KvType, PageLayout, attend};
use meden_kernels::isa::Isa;
use meden_kernels::pool::Pool;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn attention_allocates_nothing_in_the_steady_state() {
    let layout = PageLayout::new(64, 64, KvType::F16, KvType::Q8);
    let slots = 700;
    let page = vec![0u8; layout.page_bytes()];
    let pages = vec![&page[..]; layout.pages_for(slots)];
    let positions: Vec<u32> = (0..slots as u32).collect();
    let heads = [HeadView { layout, pages: &pages, positions: &positions, starts: &[] }; 3];
    let params = AttendParams { scale: 0.125, softcap: None, window: None };
    // One thread: which thread takes which task is left to chance, and each grows its own buffers when it first does.
    let pool = Pool::new(1);
    for isa in Isa::available() {
        let mut scratch = AttendScratch::default();
        // The longest prompt first, as a session meets them: then chunks, then single queries.
        for m in [40, 30, 4, 1] {
            let (q, mut out, mut lse) = (vec![0.5; m * 9 * 64], vec![0.0; m * 9 * 64], vec![0.0; m * 9]);
            let q_positions: Vec<u32> = (0..m).map(|i| (slots - m + i) as u32).collect();
            let input = AttendInput { q: &q, q_positions: &q_positions, q_heads: 9, heads: &heads, params };
            let mut run = || attend(&pool, isa, &input, &mut out, Some(&mut lse), &mut scratch);
            assert_eq!(run(), Ok(()));
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert_eq!(run(), Ok(()));
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{isa}, {m} queries");
        }
    }
}
