use meden_kernels::attention::{KvType, PageLayout};
use meden_kernels::mem::Slab;

use super::*;

const DIM: usize = 16;

fn head() -> HeadCache {
    let layout = PageLayout::new(DIM, DIM, KvType::Q4c, KvType::F16);
    HeadCache::new(layout, Slab::new(layout.page_bytes()))
}

/// A key whose channel c lies within [c, c + 1].
fn key(position: u32) -> Vec<f32> {
    (0..DIM).map(|c| c as f32 + ((position * 31 + c as u32 * 7) % 97) as f32 / 96.0).collect()
}

/// What f16 holds exactly.
fn value(position: u32) -> f32 {
    (position % 2000) as f32
}

fn fill(head: &mut HeadCache, positions: std::ops::Range<u32>) {
    for position in positions {
        head.push(position, &key(position), &[value(position); DIM]);
        if position % 3 == 0 {
            head.settle(&mut Vec::new());
        }
    }
    head.settle(&mut Vec::new());
}

/// Every slot has its position's value, and its key to within `steps` sixteenths.
fn check(head: &HeadCache, steps: f32) {
    let (mut k, mut v) = (vec![0.0; DIM], vec![0.0; DIM]);
    for (slot, &position) in head.positions().iter().enumerate() {
        head.value(slot, &mut v);
        assert_eq!(v, vec![value(position); DIM], "slot {slot}");
        head.key(slot, &mut k);
        let worst = k.iter().zip(key(position)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= steps / 16.0, "slot {slot} of {}: {worst}", head.len());
    }
    let view = head.view();
    assert_eq!(view.starts.last().copied(), Some(head.len() as u32));
    assert_eq!(view.pages.len() + 1, view.starts.len());
    let held: Vec<usize> = counts(view.starts).collect();
    assert!(held.iter().all(|&c| c > 0 && c <= head.layout().tokens()), "{held:?}");
    assert!(head.pages().len() <= most_pages(head.len(), head.layout().tokens()), "{held:?}");
    assert_eq!(head.slab.live_pages(), head.pages().len());
}

#[test]
fn what_is_pushed_comes_back_and_the_newest_page_is_nearly_exact() {
    let mut head = head();
    let tokens = head.layout().tokens() as u32;
    fill(&mut head, 0..3 * tokens + 5);
    check(&head, 0.6);
    assert_eq!(head.open_slots(), 5);
    let mut k = vec![0.0; DIM];
    for slot in 3 * tokens..3 * tokens + 5 {
        head.key(slot as usize, &mut k);
        assert!(k.iter().zip(key(slot)).all(|(a, b)| (a - b).abs() < 0.01));
    }
    fill(&mut head, 3 * tokens + 5..4 * tokens);
    assert_eq!(head.open_slots(), 0, "a full page is closed");
    check(&head, 0.6);
}

#[test]
fn an_eviction_leaves_the_steps_alone_until_pages_are_joined() {
    let mut head = head();
    let tokens = head.layout().tokens();
    fill(&mut head, 0..6 * tokens as u32 + 7);
    let keys = head.keys();
    // three of four stay: no two pages fit into one
    let keep: Vec<u32> = (0..head.len() as u32).filter(|s| s % 4 != 1).collect();
    head.retain(&keep);
    let old = |slot: u32| &keys[slot as usize * DIM..(slot as usize + 1) * DIM];
    for (row, &slot) in head.keys().chunks_exact(DIM).zip(&keep) {
        assert_eq!(row, old(slot), "slot {slot} has not been rounded again");
    }
    check(&head, 0.6);
    // a quarter stays: pages are joined
    let pages = head.pages().len();
    let keep: Vec<u32> = (0..head.len() as u32).filter(|s| s % 4 == 0).collect();
    head.retain(&keep);
    assert!(head.pages().len() * 2 <= pages + 2, "{} of {pages}", head.pages().len());
    check(&head, 1.2);
}

#[test]
fn many_evictions_round_a_key_a_few_times_only() {
    let mut head = head();
    let tokens = head.layout().tokens() as u32;
    let mut next = 0;
    for round in 0..60 {
        fill(&mut head, next..next + tokens / 2);
        next += tokens / 2;
        // a share goes everywhere, every 16th position lives for ever
        let stay = |&slot: &u32| {
            let position = head.positions()[slot as usize];
            position.is_multiple_of(16) || (position * 7 + round * 3) % 10 < 7
        };
        let keep: Vec<u32> = (0..head.len() as u32).filter(stay).collect();
        head.retain(&keep);
        check(&head, 3.0);
    }
    assert!(head.positions().starts_with(&[0, 16, 32]) && head.len() < 400, "{} slots", head.len());
}

#[test]
fn rewinds_windows_forks_and_new_numbers_keep_keys_and_values_together() {
    let mut head = head();
    let tokens = head.layout().tokens() as u32;
    fill(&mut head, 0..4 * tokens + 9);
    let fork = head.clone();
    for len in [4 * tokens + 3, 4 * tokens, 3 * tokens - 2, 1] {
        head.truncate(len as usize);
        head.view();
        assert_eq!(head.len(), len as usize);
        let mut k = vec![0.0; DIM];
        head.key(len as usize - 1, &mut k);
        assert!(k.iter().zip(key(len - 1)).all(|(a, b)| (a - b).abs() < 0.05));
    }
    // a page that was cut stays closed; what comes then has a page of its own
    fill(&mut head, 1..40);
    let (mut k, mut v) = (vec![0.0; DIM], vec![0.0; DIM]);
    for slot in 0..40 {
        head.key(slot, &mut k);
        head.value(slot, &mut v);
        assert!(k.iter().zip(key(slot as u32)).all(|(a, b)| (a - b).abs() < 0.05));
        assert_eq!(v[0], value(slot as u32));
    }
    // the fork stands where it stood
    drop(head);
    check(&fork, 0.6);
    let mut window = fork.clone();
    drop(fork);
    assert_eq!(window.drop_front_pages(2 * tokens + 3), 2 * tokens as usize);
    check(&window, 0.6);
    assert_eq!(window.positions()[0], 2 * tokens);
    let keys = window.keys();
    window.renumber(|key, from, to| key.iter_mut().for_each(|k| *k += (from - to) as f32));
    for (slot, (new, old)) in window.keys().chunks_exact(DIM).zip(keys.chunks_exact(DIM)).enumerate() {
        let moved = 2 * tokens;
        assert_eq!(window.positions()[slot], slot as u32);
        assert!(new.iter().zip(old).all(|(n, o)| (n - o - moved as f32).abs() < 0.1), "slot {slot}: {new:?} {old:?}");
    }
    window.drop_front_pages(u32::MAX);
    assert!(window.is_empty() && window.pages().is_empty());
    fill(&mut window, 1000..1010);
    check(&window, 0.6);
}
