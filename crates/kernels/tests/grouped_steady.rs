//! A grouped feed-forward allocates nothing once its buffers have grown.

#![allow(unsafe_code, clippy::unwrap_used)]

use meden_kernels::grouped::{Activation, GroupedPlan, LearnerWeights, Learners, Residual, grouped_ffn};
use meden_kernels::{Isa, Pool};
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
fn a_call_allocates_nothing_in_the_steady_state() {
    let (d, w, n) = (48, 32, 4);
    // One thread: which thread takes which task is left to chance, and each grows its own buffers when it first does.
    let pool = Pool::new(1);
    let (w1, b1) = (vec![0.1; w * d], vec![0.0; w]);
    let weights = vec![LearnerWeights { w1: &w1, b1: &b1, w2: &w1 }; n];
    let learners = Learners::new(&pool, d, Activation::Gelu, &weights).unwrap();
    let (x, mut out, mut plan) = (vec![0.5; 300 * d], vec![0.0; 300 * d], GroupedPlan::new());
    for isa in Isa::available() {
        let mut run = |tokens: usize, k: &[u8]| {
            let (x, out) = (&x[..tokens * d], &mut out[..tokens * d]);
            grouped_ffn((&pool, isa), (x, &k[..tokens]), &learners, Residual::default(), &mut plan, out)
        };
        let mixed: Vec<u8> = (0..300).map(|t| (t % 5) as u8).collect();
        let nearly: Vec<u8> = (0..300).map(|t| if t % 20 == 0 { 3 } else { 4 }).collect();
        for k in [&mixed, &nearly] {
            assert_eq!(run(300, k), Ok(()));
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for tokens in [300, 120, 1] {
            for k in [&mixed, &nearly] {
                assert_eq!(run(tokens, k), Ok(()));
            }
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{isa}");
    }
}
