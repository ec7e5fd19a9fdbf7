//! Bounds of pages, and attention over some of the pages.
#![allow(clippy::unwrap_used)]

mod ragged;

use meden_kernels::attention::bounds::{key_bounds, largest_logit};
use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, HeadView, KvType, PageLayout, attend};
use meden_kernels::isa::Isa;
use meden_kernels::pool::Pool;
use proptest::prelude::*;
use ragged::{Head, Noise, positions};

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// No key of a page exceeds the page's bound, and the bound is the definition's.
    #[test]
    fn a_bound_is_above_every_logit_of_its_page(
        dim in prop::sample::select(vec![16usize, 20, 64, 80]),
        kind in prop::sample::select(KvType::KEYS.to_vec()),
        group in 1usize..4,
        seed: u64,
    ) {
        let mut noise = Noise(seed);
        let layout = PageLayout::new(dim, dim, kind, KvType::F16);
        let slots = 1 + noise.below(layout.tokens() as u64) as usize;
        let head = Head::new(&mut noise, layout, (0..slots as u32).collect());
        let queries = noise.values(group * dim);
        let mut bounds = vec![];
        key_bounds(&layout, &head.pages[0], slots, &mut bounds);
        let mut keys = vec![0.0; slots * dim];
        for (slot, key) in keys.chunks_mut(dim).enumerate() {
            layout.read_key(&head.pages[0], slot, key);
        }
        for channel in 0..dim {
            let column = || keys.iter().skip(channel).step_by(dim).copied();
            prop_assert_eq!(bounds[channel], column().fold(f32::INFINITY, f32::min));
            prop_assert_eq!(bounds[dim + channel], column().fold(f32::NEG_INFINITY, f32::max));
        }
        let by_definition = |q: &[f32]| -> f32 { (0..dim).map(|i| (q[i] * bounds[i]).max(q[i] * bounds[dim + i])).sum() };
        let expected = queries.chunks(dim).map(by_definition).fold(f32::NEG_INFINITY, f32::max);
        let largest = queries.chunks(dim).flat_map(|q| keys.chunks(dim).map(|k| dot(q, k))).fold(f32::NEG_INFINITY, f32::max);
        for isa in Isa::available() {
            let got = largest_logit(isa, &queries, &bounds);
            prop_assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{isa}: {got} against {expected}");
            prop_assert!(got >= largest - 1e-4 * largest.abs().max(1.0), "{isa}: {got} below {largest}");
        }
    }
}

/// A damaged key shows in its page's bound, wherever its slot and its channel.
#[test]
fn a_key_that_is_not_a_number_makes_its_bound_one() {
    let layout = PageLayout::new(20, 20, KvType::F32, KvType::F32);
    for slot in [0, 5, 15] {
        for channel in [0, 19] {
            let mut page = vec![0; layout.page_bytes()];
            for at in 0..16 {
                layout.write(&mut page, at, &[at as f32; 20], &[0.0; 20]);
            }
            let mut key = [slot as f32; 20];
            key[channel] = f32::NAN;
            layout.write(&mut page, slot, &key, &[0.0; 20]);
            let mut bounds = vec![];
            key_bounds(&layout, &page, 16, &mut bounds);
            for isa in Isa::available() {
                assert!(largest_logit(isa, &[1.0; 40], &bounds).is_nan(), "{isa}, slot {slot}, channel {channel}");
            }
        }
    }
}

/// A view of some pages is attention over their slots alone, whatever the gaps between their positions: bit for bit
/// that of a cache which holds nothing else.
#[test]
fn some_pages_give_the_bits_of_a_cache_that_holds_no_others() {
    let mut noise = Noise(21);
    for (key_type, value_type) in [(KvType::F16, KvType::F16), (KvType::Q8, KvType::F32)] {
        let layout = PageLayout::new(64, 80, key_type, value_type);
        let tokens = layout.tokens();
        let positions = positions(&mut noise, 7 * tokens + 5, 4000);
        let head = Head::new(&mut noise, layout, positions);
        for chosen in [vec![7], vec![0, 7], vec![1, 2, 5, 7], vec![0, 1, 2, 3, 4, 5, 6, 7]] {
            let slots: Vec<usize> =
                chosen.iter().flat_map(|p| p * tokens..head.positions.len().min((p + 1) * tokens)).collect();
            let picked: Vec<u32> = slots.iter().map(|&s| head.positions[s]).collect();
            let pages: Vec<&[u8]> = chosen.iter().map(|&p| &head.pages[p][..]).collect();
            let mut alone = vec![vec![0xff; layout.page_bytes()]; layout.pages_for(slots.len())];
            for (to, &from) in slots.iter().enumerate() {
                layout.copy_slot(&head.pages[from / tokens], from % tokens, &mut alone[to / tokens], to % tokens);
            }
            let alone: Vec<&[u8]> = alone.iter().map(|p| &p[..]).collect();
            for (m, window) in [(1, None), (30, None), (1, Some(900)), (30, Some(900))] {
                let q = noise.values(m * 3 * 64);
                let q_positions: Vec<u32> = (3990..3990 + m as u32).collect();
                for isa in Isa::available() {
                    let run = |pages: &[&[u8]]| {
                        let heads = [HeadView { layout, pages, positions: &picked, starts: &[] }];
                        let params = AttendParams { scale: 0.125, softcap: None, window };
                        let input = AttendInput { q: &q, q_positions: &q_positions, q_heads: 3, heads: &heads, params };
                        let (mut out, mut scratch) = (vec![f32::NAN; m * 3 * 80], AttendScratch::default());
                        attend(&Pool::new(2), isa, &input, &mut out, None, &mut scratch).unwrap();
                        out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                    };
                    assert_eq!(run(&pages), run(&alone), "{isa}, {m} queries, pages {chosen:?}");
                }
            }
        }
    }
}
