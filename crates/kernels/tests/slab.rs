//! Pages of a slab: aligned, never shared, reused from the bottom, counted right.
#![allow(clippy::unwrap_used)]

use meden_kernels::mem::{MappedFile, PageBuf, Slab};
use proptest::prelude::*;
use std::collections::HashSet;

fn stamp(page: &mut PageBuf, value: u64) {
    for word in page.as_chunks_mut::<8>().0 {
        *word = value.to_le_bytes();
    }
}

fn stamped(page: &PageBuf, value: u64) -> bool {
    page.as_chunks::<8>().0.iter().all(|word| *word == value.to_le_bytes())
}

#[test]
fn pages_are_aligned_and_distinct() {
    for page_bytes in [4096, 8192, 3 * 4096, 4 << 20] {
        let slab = Slab::new(page_bytes);
        let pages: Vec<PageBuf> = (0..(12 << 20) / page_bytes + 1).map(|_| slab.alloc()).collect();
        let addresses: HashSet<usize> = pages.iter().map(|p| p.as_ptr().addr()).collect();
        assert_eq!(addresses.len(), pages.len());
        assert!(pages.iter().all(|p| p.as_ptr().addr() % 4096 == 0 && p.len() == page_bytes));
    }
}

#[test]
fn the_lowest_free_page_is_handed_out_first() {
    let slab = Slab::new(4096);
    let mut pages: Vec<Option<PageBuf>> = (0..2000).map(|_| Some(slab.alloc())).collect();
    let address = |p: &Option<PageBuf>| p.as_ref().map(|p| p.as_ptr().addr());
    let addresses: Vec<_> = pages.iter().map(address).collect();
    for i in [1999, 1300, 700, 13] {
        pages[i] = None;
    }
    for i in [13, 700, 1300, 1999] {
        pages[i] = Some(slab.alloc());
        assert_eq!(address(&pages[i]), addresses[i]);
    }
}

#[test]
fn counts_follow_what_is_handed_out() {
    let slab = Slab::new(8192);
    assert_eq!((slab.live_pages(), slab.peak_pages(), slab.reserve_pages(), slab.mapped_bytes()), (0, 0, 0, 0));
    let mut pages: Vec<PageBuf> = (0..1000).map(|_| slab.alloc()).collect();
    assert_eq!((slab.live_pages(), slab.peak_pages()), (1000, 1000));
    pages.truncate(300);
    assert_eq!((slab.live_pages(), slab.peak_pages()), (300, 1000));
    slab.reset_peak();
    pages.push(slab.alloc());
    assert_eq!(slab.peak_pages(), 301);
    // What stays resident after freeing is bounded, whatever was freed: 64 KiB and a batch of 256 KiB.
    assert!(slab.reserve_pages() * slab.page_bytes() <= 320 << 10, "{}", slab.reserve_pages());
    slab.trim();
    assert_eq!(slab.reserve_pages(), 0);
    drop(pages);
    slab.trim();
    assert_eq!((slab.live_pages(), slab.mapped_bytes()), (0, 0));
}

#[test]
fn a_page_keeps_its_slab_alive() {
    let slab = Slab::new(4096);
    let mut page = slab.alloc();
    drop(slab);
    stamp(&mut page, 7);
    assert!(stamped(&page, 7));
}

#[test]
fn pages_go_between_threads() {
    let slab = Slab::new(4096);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let slab = &slab;
            scope.spawn(move || {
                let mut kept: Vec<(PageBuf, u64)> = vec![];
                for i in 0..3000u64 {
                    let value = thread << 32 | i;
                    let mut page = slab.alloc();
                    stamp(&mut page, value);
                    kept.push((page, value));
                    if i % 3 != 0 {
                        let (page, value) = kept.swap_remove(i as usize * 7 % kept.len());
                        assert!(stamped(&page, value));
                    }
                }
                assert!(kept.iter().all(|(page, value)| stamped(page, *value)));
            });
        }
    });
    assert_eq!(slab.live_pages(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Takes, frees, bulk frees and trims in any order: what is live keeps its contents.
    #[test]
    fn contents_survive_whatever_happens_to_the_neighbours(steps in prop::collection::vec((0u8..8, 0usize..600), 1..60)) {
        let slab = Slab::new(4096);
        let mut live: Vec<(PageBuf, u64)> = vec![];
        let mut serial = 0;
        for (what, count) in steps {
            match what {
                0..4 => for _ in 0..count {
                    serial += 1;
                    let mut page = slab.alloc();
                    stamp(&mut page, serial);
                    live.push((page, serial));
                },
                4..6 => for i in 0..count.min(live.len()) {
                    live.swap_remove(i * 31 % live.len());
                },
                6 => {
                    let from = live.len() - count.min(live.len());
                    slab.free_all(live.drain(from..).map(|(page, _)| page).collect());
                }
                _ => slab.trim(),
            }
            prop_assert_eq!(slab.live_pages(), live.len());
            prop_assert!(slab.mapped_bytes() >= live.len() * 4096);
        }
        prop_assert!(live.iter().all(|(page, value)| stamped(page, *value)));
    }
}

#[test]
fn a_mapped_file_shows_the_bytes_of_the_file() {
    let path = std::env::temp_dir().join(format!("meden-mapped-{}", std::process::id()));
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(&path, &bytes).expect("the folder for temporary files can be written");
    let map = MappedFile::open(&path);
    std::fs::remove_file(&path).expect("the file was just written");
    assert_eq!(map.expect("the file is there").as_slice(), bytes);
    assert!(MappedFile::open(&path).is_err());
}
