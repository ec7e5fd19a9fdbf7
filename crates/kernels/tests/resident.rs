//! Freed cache pages must leave the process, as the operating system counts it. Alone in its file: another test's
//! memory in the same process would show up in the figures.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use meden_kernels::mem::{PageBuf, Slab};

/// Resident bytes, from a walk over the page tables (the counters in `status` lag behind by some pages a thread).
fn resident() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells what is resident");
    let line = rollup.lines().find(|l| l.starts_with("Rss:")).expect("a total");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}

const MIB: usize = 1 << 20;

#[test]
fn dropped_pages_leave_the_process_even_when_scattered() {
    let page = 4096;
    let total = 64 * MIB;
    let slab = Slab::new(page);
    // The handles of the pages are memory too: made before the count starts, and kept.
    let mut pages: Vec<Option<PageBuf>> = Vec::new();
    pages.resize_with(total / page, || None);
    let before = resident();
    let grown = || resident().saturating_sub(before);

    for slot in &mut pages {
        let mut page = slab.alloc();
        page.fill(1);
        *slot = Some(page);
    }
    assert!(grown().abs_diff(total) < MIB, "{} pages of {page} bytes took {}", total / page, grown());

    // Three of four, as a press leaves them: whole neighbours stay.
    for (i, slot) in pages.iter_mut().enumerate() {
        if i % 4 != 1 {
            *slot = None;
        }
    }
    assert!(grown().abs_diff(total / 4) < MIB, "a quarter of {total} bytes is live, {} are resident", grown());
    assert!(pages.iter().flatten().all(|p| p.iter().all(|b| *b == 1)), "a neighbour's page was given back");

    pages.iter_mut().for_each(|slot| *slot = None);
    assert!(grown() < MIB, "nothing is live, {} bytes are resident", grown());
    slab.trim();
    assert_eq!((slab.mapped_bytes(), slab.reserve_pages()), (0, 0));

    // The same memory again, freed by one call.
    let again: Vec<PageBuf> = (0..total / page)
        .map(|_| {
            let mut page = slab.alloc();
            page.fill(2);
            page
        })
        .collect();
    assert!(grown() > total - MIB);
    slab.free_all(again);
    assert!(grown() < 2 * MIB, "nothing is live, {} bytes are resident", grown());
}
