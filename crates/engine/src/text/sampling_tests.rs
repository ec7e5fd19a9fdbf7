//! Sampling against hand-computed distributions.

use super::*;

fn sampler(config: SamplingConfig) -> Sampler {
    Sampler::new(config).unwrap()
}

fn config() -> SamplingConfig {
    SamplingConfig { temperature: 1.0, seed: 11, ..SamplingConfig::default() }
}

/// Natural logarithms, so that probabilities are easy to read.
fn logits(weights: &[f32]) -> Vec<f32> {
    weights.iter().map(|w| w.ln()).collect()
}

/// How often each token is drawn in `draws` draws.
fn shares(config: SamplingConfig, logits: &[f32], history: &[u32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(config);
    let mut counts = vec![0u32; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, history).unwrap().id as usize] += 1;
    }
    counts.into_iter().map(|n| f64::from(n) / draws as f64).collect()
}

fn close(got: &[f64], want: &[f64]) {
    for (id, (got, want)) in got.iter().zip(want).enumerate() {
        // Five standard errors of 20,000 draws; what has no probability must never be drawn.
        let allowed = 5.0 * (want * (1.0 - want) / 20_000.0).sqrt();
        assert!((got - want).abs() <= allowed, "token {id}: {got}, not {want}");
    }
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let mut greedy = sampler(SamplingConfig::default());
    assert_eq!(greedy.sample(&[1.0, 3.0, 2.0, 3.0], &[]).unwrap().id, 1);
    let mut many = vec![0.5; 1000];
    many[700] = 0.75;
    many[999] = 0.75;
    assert_eq!(greedy.sample(&many, &[]).unwrap().id, 700);
}

#[test]
fn draws_follow_the_distribution() {
    let weights = logits(&[0.5, 0.3, 0.15, 0.05]);
    close(&shares(config(), &weights, &[], 20_000), &[0.5, 0.3, 0.15, 0.05]);
    let cold = SamplingConfig { temperature: 0.5, ..config() };
    let squares = [0.25, 0.09, 0.0225, 0.0025].map(|x: f64| x / 0.365);
    close(&shares(cold, &weights, &[], 20_000), &squares);
    let hot = SamplingConfig { temperature: 2.0, top_k: 2, ..config() };
    let roots = [0.5f64.sqrt(), 0.3f64.sqrt()];
    let sum = roots[0] + roots[1];
    close(&shares(hot, &weights, &[], 20_000), &[roots[0] / sum, roots[1] / sum, 0.0, 0.0]);
}

#[test]
fn truncations_keep_what_they_say() {
    let weights = logits(&[0.05, 0.5, 0.15, 0.3]);
    let top_k = SamplingConfig { top_k: 2, ..config() };
    close(&shares(top_k, &weights, &[], 20_000), &[0.0, 0.625, 0.0, 0.375]);
    // 0.5 + 0.3 does not reach 0.81, so the third belongs to it too.
    let top_p = SamplingConfig { top_p: 0.81, ..config() };
    close(&shares(top_p, &weights, &[], 20_000), &[0.0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95]);
    let one = SamplingConfig { top_p: 0.1, ..config() };
    close(&shares(one, &weights, &[], 1000), &[0.0, 1.0, 0.0, 0.0]);
    let min_p = SamplingConfig { min_p: 0.31, ..config() };
    close(&shares(min_p, &weights, &[], 20_000), &[0.0, 0.625, 0.0, 0.375]);
    // After top-k the probabilities are 0.625 and 0.375, of which top-p 0.6 keeps the first.
    let both = SamplingConfig { top_k: 2, top_p: 0.6, ..config() };
    close(&shares(both, &weights, &[], 1000), &[0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn top_p_over_a_flat_vocabulary_needs_many_candidates() {
    let flat = vec![0.0; 3000];
    let half = SamplingConfig { top_p: 0.5, ..config() };
    let mut sampler = sampler(half);
    let ids: Vec<u32> = (0..2000).map(|_| sampler.sample(&flat, &[]).unwrap().id).collect();
    let highest = ids.iter().max().unwrap();
    assert!((1480..=1500).contains(highest), "{highest}");
}

#[test]
fn penalties_look_at_the_last_tokens() {
    let weights = [2.0, 1.0, -1.0];
    let best = |config: SamplingConfig, history: &[u32]| sampler(config).sample(&weights, history).unwrap().id;
    let off = SamplingConfig::default();
    assert_eq!(best(off.clone(), &[0, 0, 0]), 0);
    assert_eq!(best(SamplingConfig { repetition_penalty: 3.0, ..off.clone() }, &[0]), 1);
    assert_eq!(best(SamplingConfig { presence_penalty: 1.5, ..off.clone() }, &[0]), 1);
    assert_eq!(best(SamplingConfig { frequency_penalty: 0.4, ..off.clone() }, &[0, 0]), 0);
    assert_eq!(best(SamplingConfig { frequency_penalty: 0.4, ..off.clone() }, &[0, 0, 0]), 1);
    let window = |penalty_last_n| SamplingConfig { presence_penalty: 1.5, penalty_last_n, ..off.clone() };
    assert_eq!(best(window(2), &[0, 2, 2]), 0);
    assert_eq!(best(window(3), &[0, 2, 2]), 1);
    assert_eq!(best(window(0), &[&[0][..], &[2; 100]].concat()), 1);
    // A negative logit is multiplied: repetition pushes it down too.
    let negative = SamplingConfig { repetition_penalty: 2.0, ..off };
    assert_eq!(sampler(negative).sample(&[-1.0, -1.5], &[0]).unwrap().id, 1);
}

#[test]
fn a_bias_moves_and_bans_tokens() {
    let bias = |id, bias| SamplingConfig { logit_bias: [(id, bias)].into(), ..SamplingConfig::default() };
    assert_eq!(sampler(bias(1, 2.0)).sample(&[1.0, 0.0], &[]).unwrap().id, 1);
    assert_eq!(sampler(bias(0, f32::NEG_INFINITY)).sample(&[1.0, 0.0], &[]).unwrap().id, 1);
    let error = sampler(bias(2, 1.0)).sample(&[1.0, 0.0], &[]).unwrap_err();
    assert!(matches!(&error, TextError::Setting { field, .. } if field == "logit_bias"), "{error}");
    let error = sampler(bias(0, f32::NEG_INFINITY)).sample(&[1.0], &[]).unwrap_err();
    assert!(matches!(error, TextError::NothingLeft { count: 1 }), "{error}");
}

#[test]
fn logprobs_are_those_of_the_model() {
    let weights = logits(&[0.2, 0.5, 0.3]);
    let odd = SamplingConfig { temperature: 5.0, logit_bias: [(0, 50.0)].into(), logprobs: 2, ..config() };
    let sampled = sampler(odd).sample(&weights, &[]).unwrap();
    assert_eq!(sampled.id, 0);
    assert!((sampled.logprob - 0.2f32.ln()).abs() < 1e-6);
    assert_eq!(sampled.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
    assert!((sampled.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
    assert!((sampled.top[1].1 - 0.3f32.ln()).abs() < 1e-6);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let weights = vec![0.0; 5000];
    let draw = |seed| {
        let mut sampler = sampler(SamplingConfig { seed, ..config() });
        (0..20).map(|_| sampler.sample(&weights, &[]).unwrap().id).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn what_is_no_number_is_an_error() {
    for bad in [f32::NAN, f32::INFINITY] {
        let error = sampler(config()).sample(&[0.0, 1.0, bad], &[]).unwrap_err();
        assert!(matches!(error, TextError::Logit { id: 2, count: 3, .. }), "{error}");
    }
    assert!(matches!(sampler(config()).sample(&[], &[]), Err(TextError::NothingLeft { count: 0 })));
}

#[test]
fn settings_out_of_range_are_named_with_what_is_allowed() {
    let off = SamplingConfig::default;
    let cases = [
        ("temperature", SamplingConfig { temperature: -0.1, ..off() }),
        ("temperature", SamplingConfig { temperature: f32::NAN, ..off() }),
        ("top_p", SamplingConfig { top_p: 0.0, ..off() }),
        ("top_p", SamplingConfig { top_p: 1.01, ..off() }),
        ("min_p", SamplingConfig { min_p: 2.0, ..off() }),
        ("repetition_penalty", SamplingConfig { repetition_penalty: 0.0, ..off() }),
        ("presence_penalty", SamplingConfig { presence_penalty: f32::INFINITY, ..off() }),
        ("frequency_penalty", SamplingConfig { frequency_penalty: -101.0, ..off() }),
        ("logprobs", SamplingConfig { logprobs: 1001, ..off() }),
        ("logit_bias[7]", SamplingConfig { logit_bias: [(7, f32::NAN)].into(), ..off() }),
    ];
    for (name, config) in cases {
        let Err(TextError::Setting { field, allowed, .. }) = Sampler::new(config) else {
            panic!("{name} out of range was accepted");
        };
        assert_eq!(field, name);
        assert!(!allowed.is_empty());
    }
}

#[test]
fn settings_travel_as_json_and_unknown_ones_are_refused() {
    let text = r#"{"temperature": 0.7, "top_k": 40, "logit_bias": {"5": -2.5}}"#;
    let config: SamplingConfig = serde_json::from_str(text).unwrap();
    let want = SamplingConfig { temperature: 0.7, top_k: 40, logit_bias: [(5, -2.5)].into(), ..Default::default() };
    assert_eq!(config, want);
    let again: SamplingConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(
        serde_json::from_str::<SamplingConfig>(r#"{"temperatur": 0.7}"#)
            .unwrap_err()
            .to_string()
            .contains("temperatur")
    );
}

/// Truncation picks with partial selection what a full sort would pick.
#[test]
fn partial_selection_keeps_what_a_full_sort_keeps() {
    let mut rng = Rng::new(4, 0);
    let logits: Vec<f32> = (0..4000).map(|_| (rng.normal() * 2.0) as f32).collect();
    let mut order: Vec<u32> = (0..4000).collect();
    order.sort_by(by_logit(&logits));
    let weight = |id: u32| f64::from(logits[id as usize]).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    for share in [0.01, 0.4, 0.9, 0.9999] {
        let mut ids: Vec<u32> = (0..4000).collect();
        keep_mass(&mut ids, &by_logit(&logits), share * total, weight);
        let mut sum = 0.0;
        let want = order.iter().take_while(|&&id| {
            let before = sum;
            sum += weight(id);
            before < share * total
        });
        assert_eq!(ids, want.copied().collect::<Vec<_>>(), "{share}");
    }
}
