//! A decoded token allocates nothing, but for what a growing cache needs.
//!
//! One thread: which thread takes which task is left to chance, and each grows its own buffers when it first does.
#![allow(clippy::unwrap_used)]

mod common;

use common::{oracle, policy, presses};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::text::{Sampler, SamplingConfig};
use meden_engine::{BatchItem, Control, EngineError, LogitRows, Session, WeightMode, forward_batch};
use meden_kernels::mem::CountingAllocator;

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

fn allocations(work: impl FnOnce()) -> usize {
    CountingAllocator::count(work)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

/// Every family: they differ in norms, biases, windows and soft caps.
fn sessions() -> Vec<(String, Session)> {
    let Some(root) = oracle("tiny") else { return Vec::new() };
    let open = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let model = common::load(&path, WeightMode::Native, 1);
        (path.display().to_string(), common::open(&model, None))
    };
    std::fs::read_dir(root).unwrap().map(open).collect()
}

fn id(at: usize) -> u32 {
    3 + (at as u32 * 37) % 300
}

fn step(session: &mut Session, at: usize) {
    let logits = session.decode(id(at), &mut Control::default()).unwrap();
    assert!(logits.iter().all(|l| l.is_finite()));
}

/// Lists of a head that grow: positions, norms, and the two of its page table.
const LISTS_OF_A_HEAD: usize = 4;

/// Every way of choosing a token.
fn samplers() -> Vec<Sampler> {
    let warm = SamplingConfig { temperature: 0.8, ..SamplingConfig::default() };
    let configs = [
        SamplingConfig::default(),
        warm.clone(),
        SamplingConfig { top_k: 20, ..warm.clone() },
        SamplingConfig { top_p: 0.9, min_p: 0.01, ..warm.clone() },
        SamplingConfig { repetition_penalty: 1.1, logit_bias: [(3, 1.0)].into(), ..warm },
    ];
    configs.map(|config| Sampler::new(config).unwrap()).into()
}

#[test]
fn a_token_allocates_nothing_unless_its_cache_takes_a_page() {
    for (name, mut session) in sessions() {
        // the session's list of ids has room up to a power of two
        (0..70).for_each(|at| step(&mut session, at));
        let (mut quiet, mut pages) = (0, session.cache().slab().live_pages());
        for at in 70..126 {
            let count = allocations(|| step(&mut session, at));
            let now = session.cache().slab().live_pages();
            if now <= pages {
                assert_eq!(count, 0, "{name}: token {at}");
                quiet += 1;
            }
            pages = now;
        }
        assert!(quiet > 30, "{name}: {quiet} tokens took no page");
    }
}

#[test]
fn choosing_a_token_allocates_nothing() {
    let logits: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37).sin() * 6.0).collect();
    for mut sampler in samplers() {
        let mut chosen = 0;
        // which candidates are left, and so how long the lists get, does not depend on the draw
        let mut choose = || chosen = sampler.sample(&logits, &[1, 2, 3, 2]).unwrap().id;
        choose();
        assert_eq!(allocations(|| (0..50).for_each(|_| choose())), 0);
        assert!((chosen as usize) < logits.len());
    }
}

#[test]
fn a_growing_cache_allocates_one_owner_a_page_and_doubles_its_lists() {
    for (name, mut session) in sessions() {
        (0..30).for_each(|at| step(&mut session, at));
        let (tokens, peak) = (400, session.cache().slab().live_pages());
        let count = allocations(|| {
            (30..tokens).for_each(|at| step(&mut session, at));
        });
        let cache = session.cache();
        let heads = cache.layers().len() * cache.layers()[0].heads().len();
        // a sliding layer takes pages that it gave back before
        let taken: usize = cache
            .layers()
            .iter()
            .flat_map(|l| l.heads())
            .map(|h| tokens.div_ceil(h.layout().tokens()))
            .sum::<usize>()
            .saturating_sub(peak);
        let doublings = (tokens as f64).log2().ceil() as usize;
        // lists of the heads, the session's ids, the buffers of attention, the books of the slab
        let most = taken + (LISTS_OF_A_HEAD * heads + 10) * doublings;
        assert!(count <= most, "{name}: {count} allocations for {taken} pages of {heads} heads");
    }
}

/// Looks at everything and changes nothing.
struct Look(usize);

impl Hook for Look {
    fn name(&self) -> &str {
        "look"
    }
    fn wants(&self, _: Site, _: usize) -> bool {
        true
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        self.0 += visit.rows.len();
        Ok(())
    }
}

#[test]
fn hooks_and_batches_allocate_no_more_than_the_caller_does() {
    let Some(path) = oracle("tiny/llama") else { return };
    let model = common::load(&path, WeightMode::Native, 1);
    let mut session = common::open(&model, None);
    let mut other = common::open(&model, None);
    let mut step = |at: usize| {
        let mut look = Look(0);
        let alone = allocations(|| {
            let mut control = Control { hooks: vec![&mut look], ..Control::default() };
            session.decode(id(at), &mut control).unwrap();
        });
        assert!(look.0 > 0);
        let ids = [id(at)];
        let together = allocations(|| {
            let mut items =
                [&mut session, &mut other].map(|session| BatchItem { session, ids: &ids, rows: LogitRows::Last });
            forward_batch(&mut items, &mut Control::default(), &mut |_, _, _| Ok(())).unwrap();
        });
        (alone, together, session.cache().slab().live_pages() + other.cache().slab().live_pages())
    };
    let mut pages = 0;
    let mut quiet = 0;
    for at in 0..62 {
        let (alone, together, now) = step(at);
        // the list of hooks is the caller's
        if at > 35 && now == pages {
            assert_eq!((alone, together), (1, 0), "token {at}");
            quiet += 1;
        }
        pages = now;
    }
    assert!(quiet > 10, "{quiet}");
}

#[test]
fn a_press_allocates_only_at_the_tokens_it_acts_on() {
    let Some(path) = oracle("tiny/llama") else { return };
    let model = common::load(&path, WeightMode::Native, 1);
    for press in presses() {
        let mut session = common::open(&model, Some(policy(&press, "24", "decode_every:8")));
        (0..70).for_each(|at| step(&mut session, at));
        let (mut quiet, mut acted) = (0, 0);
        for at in 70..126 {
            let before = (session.stats().presses_run, session.cache().slab().live_pages());
            let count = allocations(|| step(&mut session, at));
            if session.stats().presses_run > before.0 {
                acted += 1;
            } else if session.cache().slab().live_pages() == before.1 {
                assert_eq!(count, 0, "{press}: token {at}");
                quiet += 1;
            }
        }
        assert!(acted > 3 && quiet > 30, "{press}: {acted} acted on, {quiet} quiet");
    }
}
