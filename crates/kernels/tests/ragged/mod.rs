//! Random ragged caches and queries, shared by the tests of attention.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses its part

use meden_kernels::attention::{AttendInput, AttendParams, HeadView, KvType, PageLayout};
use proptest::prelude::*;

/// A small generator, so that a failing case is its seed.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Roughly normal.
    pub fn value(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 1.7
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// One kv head's slots, stored in pages.
#[derive(Debug)]
pub struct Head {
    pub layout: PageLayout,
    pub pages: Vec<Vec<u8>>,
    pub positions: Vec<u32>,
    /// Where each page begins, if they are not full.
    pub starts: Vec<u32>,
}

impl Head {
    /// Full pages.
    pub fn new(noise: &mut Noise, layout: PageLayout, positions: Vec<u32>) -> Head {
        let counts = (0..positions.len()).step_by(layout.tokens()).map(|s| layout.tokens().min(positions.len() - s));
        let pages = counts.map(|count| page(noise, &layout, count)).collect();
        Head { layout, pages, positions, starts: Vec::new() }
    }

    /// Pages of 1 to all of their slots, as evictions leave keys by channel.
    pub fn with_holes(noise: &mut Noise, layout: PageLayout, positions: Vec<u32>) -> Head {
        let (mut pages, mut starts) = (Vec::new(), vec![0]);
        let mut left = positions.len();
        while left > 0 {
            let count = (1 + noise.below(layout.tokens() as u64) as usize).min(left);
            pages.push(page(noise, &layout, count));
            left -= count;
            starts.push((positions.len() - left) as u32);
        }
        Head { layout, pages, positions, starts }
    }

    pub fn view<'a>(&'a self, pages: &'a [&'a [u8]]) -> HeadView<'a> {
        HeadView { layout: self.layout, pages, positions: &self.positions, starts: &self.starts }
    }

    /// The page of a slot, and its place there.
    pub fn place(&self, slot: usize) -> (usize, usize) {
        if self.starts.is_empty() {
            return (slot / self.layout.tokens(), slot % self.layout.tokens());
        }
        let page = self.starts.iter().rposition(|&start| start as usize <= slot).unwrap();
        (page, slot - self.starts[page] as usize)
    }
}

/// Unused bytes are NaN patterns: reading one would show.
fn page(noise: &mut Noise, layout: &PageLayout, count: usize) -> Vec<u8> {
    let mut page = vec![0xff; layout.page_bytes()];
    layout.write_keys(&mut page, &noise.values(count * layout.key_dim()));
    for slot in 0..count {
        layout.write_value(&mut page, slot, &noise.values(layout.value_dim()));
    }
    page
}

#[derive(Debug)]
pub struct Case {
    pub heads: Vec<Head>,
    /// Query heads a kv head.
    pub group: usize,
    pub q: Vec<f32>,
    pub q_positions: Vec<u32>,
    pub params: AttendParams,
}

impl Case {
    pub fn q_heads(&self) -> usize {
        self.heads.len() * self.group
    }

    /// Calls `f` with some of the queries.
    pub fn with<T>(&self, queries: std::ops::Range<usize>, f: impl FnOnce(&AttendInput) -> T) -> T {
        let pages: Vec<Vec<&[u8]>> = self.heads.iter().map(|h| h.pages.iter().map(|p| &p[..]).collect()).collect();
        let heads: Vec<HeadView> = self.heads.iter().zip(&pages).map(|(h, pages)| h.view(pages)).collect();
        let width = self.q_heads() * self.heads[0].layout.key_dim();
        f(&AttendInput {
            q: &self.q[queries.start * width..queries.end * width],
            q_positions: &self.q_positions[queries],
            q_heads: self.q_heads(),
            heads: &heads,
            params: self.params,
        })
    }

    /// The logits in f64 of query `i` and query head `h`, minus infinity where a slot is hidden.
    pub fn logits(&self, i: usize, h: usize) -> Vec<f64> {
        let (head, position) = (&self.heads[h / self.group], self.q_positions[i]);
        let dim = head.layout.key_dim();
        let q = &self.q[(i * self.q_heads() + h) * dim..][..dim];
        let mut key = vec![0.0; dim];
        let one = |(slot, &at): (usize, &u32)| {
            let (page, place) = head.place(slot);
            head.layout.read_key(&head.pages[page], place, &mut key);
            let dot: f64 = q.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let mut logit = dot * f64::from(self.params.scale);
            if let Some(cap) = self.params.softcap.map(f64::from) {
                logit = cap * (logit / cap).tanh();
            }
            let hidden = at > position || self.params.window.is_some_and(|w| position - at >= w);
            if hidden { f64::NEG_INFINITY } else { logit }
        };
        head.positions.iter().enumerate().map(one).collect()
    }
}

/// Increasing positions with gaps, as evictions leave them.
pub fn positions(noise: &mut Noise, count: usize, end: u64) -> Vec<u32> {
    let mut all: Vec<u32> = vec![];
    while all.len() < count {
        all.push(noise.below(end) as u32);
        all.sort_unstable();
        all.dedup();
    }
    all
}

pub fn cases() -> impl Strategy<Value = Case> {
    let shape = (1usize..=4, prop::sample::select(vec![1usize, 3, 8]), 1usize..=40);
    let dims = prop::sample::select(vec![
        (16, 16),
        (32, 32),
        (64, 64),
        (80, 80),
        (96, 96),
        (128, 128),
        (256, 256),
        (64, 96),
        (20, 13),
        (39, 23),
    ]);
    let key_kind = prop::sample::select(KvType::KEYS.to_vec());
    let kind = prop::sample::select(KvType::ALL.to_vec());
    let limits = (prop::option::of(1u32..400), prop::option::of(prop::sample::select(vec![2.0f32, 30.0])));
    let slots = prop::sample::select(vec![0usize, 1, 2, 17, 100, 300, 700]);
    (shape, dims, (key_kind, kind), limits, prop::collection::vec(slots, 4), any::<u64>()).prop_map(
        |((kv_heads, group, m), (key_dim, value_dim), (key, value), (window, softcap), slots, seed)| {
            let mut noise = Noise(seed);
            let layout = PageLayout::new(key_dim, value_dim, key, value);
            let end = 1000;
            let heads: Vec<Head> = slots[..kv_heads]
                .iter()
                .map(|&n| {
                    let positions = positions(&mut noise, n, end);
                    if noise.below(2) == 0 {
                        Head::new(&mut noise, layout, positions)
                    } else {
                        Head::with_holes(&mut noise, layout, positions)
                    }
                })
                .collect();
            let q = noise.values(m * kv_heads * group * key_dim);
            // Sometimes in the middle of what is cached, sometimes at its end.
            let first = noise.below(end) as u32;
            let q_positions = (first..first + m as u32).collect();
            let params = AttendParams { scale: 1.0 / (key_dim as f32).sqrt(), softcap, window };
            Case { heads, group, q, q_positions, params }
        },
    )
}
