//! How tokens lie in a page: nothing overlaps, little is wasted, and what is stored comes back.
#![allow(clippy::unwrap_used)]

use meden_kernels::attention::{KvType, PageLayout};

const DIMS: [(usize, usize); 11] =
    [(64, 64), (16, 16), (32, 32), (80, 80), (96, 96), (128, 128), (256, 256), (192, 128), (20, 13), (1, 1), (51, 64)];

fn layouts() -> impl Iterator<Item = PageLayout> {
    let types = KvType::ALL.into_iter().flat_map(|k| KvType::ALL.into_iter().map(move |v| (k, v)));
    types.flat_map(|(k, v)| DIMS.into_iter().map(move |(key, value)| PageLayout::new(key, value, k, v)))
}

/// A row that f16 holds exactly, different for each slot.
fn row(slot: usize, dim: usize, salt: usize) -> Vec<f32> {
    (0..dim).map(|i| ((slot * 131 + i * 17 + salt * 7) % 2001) as f32 / 64.0 - 15.0).collect()
}

#[test]
fn pages_are_whole_system_pages_of_sixteen_tokens_or_more_and_nearly_full() {
    for layout in layouts() {
        assert_eq!(layout.page_bytes() % 4096, 0);
        assert!(layout.tokens() >= 16, "{layout:?}");
        let unused = layout.page_bytes() - layout.tokens() * layout.token_bytes();
        assert!(unused * 20 <= layout.page_bytes(), "{unused} bytes unused: {layout:?}");
    }
    let half = PageLayout::new(64, 64, KvType::F16, KvType::F16);
    assert_eq!((half.tokens(), half.page_bytes(), half.token_bytes()), (16, 4096, 256));
    let eight = PageLayout::new(64, 64, KvType::Q8, KvType::Q8);
    assert_eq!((eight.tokens(), eight.page_bytes(), eight.token_bytes()), (30, 4096, 136));
    let mixed = PageLayout::new(64, 64, KvType::Q8, KvType::Q4);
    assert_eq!((mixed.tokens(), mixed.page_bytes(), mixed.token_bytes()), (37, 4096, 108));
    let four = PageLayout::new(64, 64, KvType::Q4, KvType::Q4);
    assert_eq!((four.tokens(), four.page_bytes(), four.token_bytes()), (51, 4096, 80));
}

#[test]
fn every_slot_of_a_full_page_comes_back() {
    for layout in layouts() {
        let (key_dim, value_dim) = (layout.key_dim(), layout.value_dim());
        let mut page = vec![0xff; layout.page_bytes()];
        for slot in 0..layout.tokens() {
            layout.write(&mut page, slot, &row(slot, key_dim, 0), &row(slot, value_dim, 1));
        }
        let (mut key, mut value) = (vec![0.0; key_dim], vec![0.0; value_dim]);
        for slot in 0..layout.tokens() {
            layout.read_key(&page, slot, &mut key);
            layout.read_value(&page, slot, &mut value);
            near(&key, &row(slot, key_dim, 0), layout.key_type());
            near(&value, &row(slot, value_dim, 1), layout.value_type());
        }
    }
}

/// Exact, or within half a step of the group and the rounding of its scale: the largest value is below 16.3, least and
/// largest are less than 31.3 apart.
fn near(got: &[f32], expected: &[f32], kind: KvType) {
    for (g, e) in got.iter().zip(expected) {
        let tolerance = match kind {
            KvType::F32 | KvType::F16 => 0.0,
            KvType::Q8 => 16.3 / 127.0 * 0.57,
            KvType::Q4 | KvType::Q4c => 31.3 / 15.0 * 0.51,
        };
        assert!((g - e).abs() <= tolerance, "{kind}: {g} against {e}");
    }
}

#[test]
fn copies_and_moves_keep_every_bit() {
    for layout in layouts() {
        let mut from = vec![0; layout.page_bytes()];
        for slot in 0..layout.tokens() {
            layout.write(&mut from, slot, &row(slot, layout.key_dim(), 2), &row(slot, layout.value_dim(), 3));
        }
        let read = |page: &[u8], slot: usize| {
            let (mut key, mut value) = (vec![0.0; layout.key_dim()], vec![0.0; layout.value_dim()]);
            layout.read_key(page, slot, &mut key);
            layout.read_value(page, slot, &mut value);
            (key, value)
        };
        let last = layout.tokens() - 1;
        let mut to = vec![0; layout.page_bytes()];
        layout.copy_slot(&from, last, &mut to, 0);
        layout.copy_slot(&from, 3, &mut to, last);
        assert_eq!((read(&to, 0), read(&to, last)), (read(&from, last), read(&from, 3)));
        let (kept, neighbours) = (read(&from, 7), (read(&from, 1), read(&from, 3)));
        layout.move_slot(&mut from, 7, 2);
        assert_eq!(read(&from, 2), kept);
        assert_eq!((read(&from, 1), read(&from, 3)), neighbours);
    }
}

#[test]
fn damage_shows_in_groups_instead_of_turning_into_numbers() {
    for kind in [KvType::Q8, KvType::Q4] {
        let layout = PageLayout::new(64, 64, kind, kind);
        let mut page = vec![0; layout.page_bytes()];
        let mut key = row(0, 64, 0);
        for damage in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            key[40] = damage;
            layout.write(&mut page, 0, &key, &[0.0; 64]);
            let mut out = [0.0; 64];
            layout.read_key(&page, 0, &mut out);
            near(&out[..32], &key[..32], kind);
            assert!(out[32..].iter().all(|x| x.is_nan()), "{kind}, {damage}");
            layout.read_value(&page, 0, &mut out);
            assert_eq!(out, [0.0; 64]);
        }
    }
}

#[test]
fn groups_survive_values_beyond_the_range_of_their_scale() {
    for (kind, most) in [(KvType::Q8, 8e6), (KvType::Q4, 1e6)] {
        let layout = PageLayout::new(32, 32, kind, kind);
        let mut page = vec![0; layout.page_bytes()];
        let mut out = [0.0; 32];
        // 65504 steps are the most a scale can stand for; a denormal scale is coarse but not zero.
        layout.write(&mut page, 1, &[1e30; 32], &[1e-5; 32]);
        layout.read_key(&page, 1, &mut out);
        assert!(out.iter().all(|x| x.is_finite() && *x > most), "{kind}: {out:?}");
        layout.read_value(&page, 1, &mut out);
        assert!(out.iter().all(|x| (x - 1e-5).abs() < 4e-6), "{kind}: {out:?}");
        // Both ends at once.
        let ends: Vec<f32> = (0..32).map(|i| if i % 2 == 0 { -1e30 } else { 1e30 }).collect();
        layout.write(&mut page, 1, &ends, &ends);
        layout.read_key(&page, 1, &mut out);
        assert!(out.iter().zip(&ends).all(|(x, e)| x.is_finite() && (x - e).abs() <= e.abs()), "{kind}: {out:?}");
    }
}

/// What a minimum beside the scale is for: a group far from zero keeps its steps small.
#[test]
fn q4_spends_its_steps_between_least_and_largest() {
    let layout = PageLayout::new(32, 32, KvType::Q4, KvType::Q4);
    let mut page = vec![0; layout.page_bytes()];
    for offset in [-8.0, 0.0, 8.0] {
        let values: Vec<f32> = (0..32).map(|i| offset + i as f32 / 31.0).collect();
        layout.write(&mut page, 0, &values, &values);
        let mut out = [0.0; 32];
        layout.read_key(&page, 0, &mut out);
        assert!(out.iter().zip(&values).all(|(x, v)| (x - v).abs() <= 1.0 / 30.0 * 1.02), "{offset}: {out:?}");
        // Ends come back, up to the f16 they are rounded to.
        assert!((out[0] - values[0]).abs() < 1e-3 && (out[31] - values[31]).abs() < 8e-3, "{offset}: {out:?}");
    }
}

/// What keys by channel are for: a channel far from zero, and one that spreads wide, do not touch the steps of others.
#[test]
fn keys_by_channel_have_steps_of_their_own_in_each_channel() {
    for dim in [20, 64, 80] {
        let layout = PageLayout::new(dim, 64, KvType::Q4c, KvType::Q8);
        let mut page = vec![0xff; layout.page_bytes()];
        for slots in [1, 2, 16, layout.tokens()] {
            // channel c spans (c + 1) / 10 from c on
            let keys: Vec<f32> = (0..slots * dim)
                .map(|at| {
                    let (slot, c) = (at / dim, at % dim);
                    c as f32 + (slot * 7 % 16) as f32 / 15.0 * (c + 1) as f32 / 10.0
                })
                .collect();
            layout.write_keys(&mut page, &keys);
            let mut out = vec![0.0; dim];
            for slot in 0..slots {
                layout.read_key(&page, slot, &mut out);
                for (c, (x, v)) in out.iter().zip(&keys[slot * dim..]).enumerate() {
                    // sixteen steps meet sixteen values, but for the f16 of step and least value
                    assert!(
                        (x - v).abs() <= 4e-3 * (c + 1) as f32,
                        "{dim}, {slots}: slot {slot}, channel {c}: {x} {v}"
                    );
                }
            }
        }
    }
}

#[test]
fn damage_of_a_key_by_channel_shows_in_its_channel() {
    let layout = PageLayout::new(64, 64, KvType::Q4c, KvType::F16);
    for damage in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let (mut page, mut out) = (vec![0; layout.page_bytes()], [0.0; 64]);
        let mut keys: Vec<f32> = (0..20).flat_map(|slot| row(slot, 64, 0)).collect();
        keys[7 * 64 + 40] = damage;
        layout.write_keys(&mut page, &keys);
        for slot in 0..20 {
            layout.read_key(&page, slot, &mut out);
            for (c, x) in out.iter().enumerate() {
                assert_eq!(x.is_nan(), c == 40, "{damage}: slot {slot}, channel {c}: {x}");
            }
        }
    }
    // beyond the range of a step, and both ends at once
    let (mut page, mut out) = (vec![0; layout.page_bytes()], [0.0; 64]);
    let ends: Vec<f32> = (0..2 * 64).map(|at| if at < 64 { -1e30 } else { 1e30 }).collect();
    layout.write_keys(&mut page, &ends);
    for slot in 0..2 {
        layout.read_key(&page, slot, &mut out);
        assert!(out.iter().all(|x| x.is_finite()), "{out:?}");
    }
}

#[test]
fn a_page_of_keys_by_channel_holds_its_table_beside_the_tokens() {
    let layout = PageLayout::new(64, 64, KvType::Q4c, KvType::Q8);
    assert_eq!((layout.page_bytes(), layout.token_bytes(), layout.tokens()), (4096, 100, 38));
    let mut page = vec![0; layout.page_bytes()];
    let keys: Vec<f32> = (0..38).flat_map(|slot| row(slot, 64, 0)).collect();
    layout.write_keys(&mut page, &keys);
    (0..38).for_each(|slot| layout.write_value(&mut page, slot, &row(slot, 64, 1)));
    let mut value = [0.0; 64];
    for slot in 0..38 {
        layout.read_value(&page, slot, &mut value);
        near(&value, &row(slot, 64, 1), KvType::Q8);
    }
    // slots move within their page, and their neighbours stay
    let mut kept = [0.0; 64];
    layout.read_key(&page, 30, &mut kept);
    layout.move_slot(&mut page, 30, 2);
    let mut key = [0.0; 64];
    layout.read_key(&page, 2, &mut key);
    assert_eq!(key, kept);
}

#[test]
#[should_panic(expected = "only keys are stored by channel")]
fn values_by_channel_are_refused() {
    PageLayout::new(64, 64, KvType::Q8, KvType::Q4c);
}

#[test]
#[should_panic(expected = "slot 16 is not in a page of 16 tokens")]
fn a_slot_behind_the_page_is_refused() {
    let layout = PageLayout::new(64, 64, KvType::F16, KvType::F16);
    layout.write(&mut vec![0; layout.page_bytes()], 16, &[0.0; 64], &[0.0; 64]);
}

#[test]
fn types_have_the_same_names_everywhere() {
    for kind in KvType::KEYS {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).ok(), Some(format!("\"{kind}\"")));
        assert_eq!(serde_json::from_str(&format!("\"{kind}\"")).ok(), Some(kind));
    }
    let error = "q3".parse::<KvType>().err().map(|e| e.to_string());
    assert_eq!(
        error.as_deref(),
        Some("\"q3\" is not a cache element type; the types are f32, f16, q8, q4 and, for keys, q4c")
    );
}
