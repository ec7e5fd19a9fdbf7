//! The forecast of a cache's bytes against what a session measures, for every family and kind of budget.
#![allow(clippy::unwrap_used)]

mod common;

use common::{load, oracle};
use meden_engine::{
    Budget, CacheStats, Control, EngineError, Forecast, KvTypes, Model, Policy, PressSpec, Run, Schedule, Session,
    SessionOptions, SkipOverflow, WeightMode,
};

fn policies() -> Vec<Option<Policy>> {
    let mut policies = vec![None];
    for budget in [Budget::Ratio(0.4), Budget::Ratio(0.05), Budget::Tokens(40), Budget::Bytes(220 << 10)] {
        for schedule in ["prefill_end", "prefill_chunk:24,decode_every:8", "prefill_chunk:24", "decode_every:5"] {
            for skip_overflow in [SkipOverflow::Window, SkipOverflow::Grow] {
                let mut policy = Policy::new("knorm".parse().unwrap(), budget);
                policy.schedule = schedule.parse::<Schedule>().unwrap();
                policy.skip_overflow = skip_overflow;
                policy.skip_layers = Some(vec![0]);
                (policy.sinks, policy.recents) = (2, 8);
                policies.push(Some(policy));
            }
        }
    }
    policies
}

/// The stats of a session after such a run.
fn measured(model: &std::sync::Arc<Model>, options: &SessionOptions, run: Run) -> CacheStats {
    let mut session = Session::new(model.clone(), options.clone()).unwrap();
    let ids: Vec<u32> = (0..run.prompt as u32).map(|i| 3 + i * 7 % 300).collect();
    if !ids.is_empty() {
        session.prefill(&ids, &mut Control::default()).unwrap();
    }
    for id in 0..run.decode as u32 {
        session.decode(5 + id, &mut Control::default()).unwrap();
    }
    session.stats()
}

fn assert_same(forecast: &Forecast, stats: &CacheStats, what: &str) {
    let kept: Vec<usize> = stats.layers.iter().map(|l| l.kept[0]).collect();
    assert_eq!(forecast.kept, kept, "{what}");
    assert_eq!(forecast.kv_bytes, stats.kv_bytes, "{what}");
    assert_eq!(forecast.page_bytes, stats.page_bytes, "{what}");
    assert_eq!(forecast.dense_bytes, stats.dense_bytes, "{what}");
    assert_eq!(forecast.peak_page_bytes, stats.peak_page_bytes, "{what}");
}

#[test]
fn narrowed_keys_are_forecast_to_the_byte() {
    let Some(folder) = oracle("tiny") else { return };
    let presses = [
        "think",
        "think(key_channel_compression_ratio=0.25)",
        "composed(knorm, think)",
        "composed(tova, knorm, think)",
    ];
    for family in ["llama", "gemma3", "llama-mha-bias"] {
        let model = load(&folder.join(family), WeightMode::Native, 1);
        for press in presses {
            for kv_type in [KvTypes::F32, KvTypes::F16, KvTypes::Q8_Q4] {
                let press: PressSpec = press.parse().unwrap();
                let budget = if press.name() == "think" { Budget::Press } else { Budget::Ratio(0.4) };
                let mut policy = Policy::new(press.clone(), budget);
                (policy.sinks, policy.recents) = (2, 8);
                let options = SessionOptions { kv_type, policy: Some(policy), ..SessionOptions::default() };
                for run in [Run { prompt: 333, decode: 21 }, Run { prompt: 5, decode: 3 }] {
                    let forecast = options.forecast(model.config(), run).unwrap();
                    let what = format!("{family}, {press}, {kv_type}, {run:?}");
                    assert!(forecast.exact, "{what}");
                    assert_same(&forecast, &measured(&model, &options, run), &what);
                    let whole = SessionOptions { policy: None, ..options.clone() };
                    let whole = whole.forecast(model.config(), run).unwrap();
                    // few channels of few bits take a scale as many do
                    let frees = kv_type == KvTypes::F32 && run.prompt > 8;
                    assert!(!frees || forecast.kv_bytes < whole.kv_bytes, "{what}: bytes are freed");
                }
            }
        }
    }
}

#[test]
fn page_bounds_are_forecast_to_the_byte_or_from_above() {
    let Some(folder) = oracle("tiny") else { return };
    let (mut exact, mut bounded, mut with_bounds) = (0, 0, 0);
    for family in ["llama", "gemma3"] {
        let model = load(&folder.join(family), WeightMode::Native, 1);
        for press in [None, Some("knorm"), Some("h2o"), Some("adakv(knorm)")] {
            for schedule in ["prefill_end", "prefill_chunk:64,decode_every:8"] {
                for decode in [0, 1, 17, 40] {
                    let policy = press.map(|press| {
                        let mut policy = Policy::new(press.parse().unwrap(), Budget::Tokens(150));
                        policy.schedule = schedule.parse().unwrap();
                        (policy.sinks, policy.recents) = (2, 8);
                        policy
                    });
                    let read = Some(r#"{"kind": "quest", "budget": 40, "skip_layers": [0]}"#.parse().unwrap());
                    let options = SessionOptions { policy, read, ..SessionOptions::default() };
                    let run = Run { prompt: 300, decode };
                    let forecast = options.forecast(model.config(), run).unwrap();
                    let stats = measured(&model, &options, run);
                    let what = format!("{family}, {press:?}, {schedule}, {decode}");
                    let plain = SessionOptions { read: None, ..options.clone() };
                    let plain = plain.forecast(model.config(), run).unwrap();
                    if forecast.exact {
                        assert_same(&forecast, &stats, &what);
                        exact += 1;
                        with_bounds += usize::from(forecast.kv_bytes > plain.kv_bytes);
                    } else {
                        assert!(
                            forecast.kv_bytes >= stats.kv_bytes,
                            "{what}: {} {}",
                            forecast.kv_bytes,
                            stats.kv_bytes
                        );
                        bounded += 1;
                    }
                }
            }
        }
    }
    assert!(
        exact > 10 && bounded > 2 && with_bounds > 5,
        "{exact} exact, {bounded} bounded, {with_bounds} with bounds"
    );
}

#[test]
fn a_forecast_is_what_the_session_then_measures() {
    let Some(folder) = oracle("tiny") else { return };
    let (mut compared, mut refused) = (0, 0);
    for family in ["llama", "llama-mha-bias", "gemma2", "gemma3", "qwen3"] {
        let model = load(&folder.join(family), WeightMode::Native, 1);
        for (number, policy) in policies().into_iter().enumerate() {
            let kv_type = [KvTypes::F32, KvTypes::F16, KvTypes::Q8_Q4][number % 3];
            let mut options = SessionOptions { kv_type, prefill_chunk: 64, ..SessionOptions::default() };
            options.policy = policy;
            let run = Run { prompt: 150 + number, decode: 13 };
            let forecast = match options.forecast(model.config(), run) {
                Ok(forecast) => forecast,
                Err(EngineError::Press { .. }) => {
                    assert!(
                        Session::new(model.clone(), options).is_err(),
                        "{family} {number}: only the forecast refused"
                    );
                    refused += 1;
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            let stats = measured(&model, &options, run);
            assert_same(&forecast, &stats, &format!("{family}, {:?}", options.policy));
            compared += 1;
        }
    }
    assert!(compared > 100 && refused > 0, "{compared} compared, {refused} refused");
}

#[test]
fn what_no_session_could_do_is_refused_before_any_weight_is_read() {
    let Some(folder) = oracle("tiny/llama") else { return };
    let files = meden_files::ModelFiles::open(&folder).unwrap();
    let config = meden_engine::Config::read(&files).unwrap();
    let options = SessionOptions::default();
    let long = options.forecast(&config, Run { prompt: config.context, decode: 1 });
    assert!(matches!(long, Err(EngineError::ContextExceeded { .. })));
    let empty = options.forecast(&config, Run { prompt: 0, decode: 0 }).unwrap();
    assert_eq!((empty.kv_bytes, empty.effective_ratio), (0, 0.0));
    let none = SessionOptions { prefill_chunk: 0, ..options };
    assert!(none.forecast(&config, Run { prompt: 1, decode: 0 }).is_err());
}

#[test]
fn every_press_is_forecast_exactly_or_from_above() {
    let Some(folder) = oracle("tiny/llama") else { return };
    let model = load(&folder, WeightMode::Native, 1);
    let (mut exact, mut bounded) = (0, 0);
    for info in meden_engine::press::registry::REGISTRY {
        let Some(press) = meden_engine::PressSpec::by_name(info.name) else { continue };
        for (budget, schedule) in
            [(Budget::Ratio(0.4), "prefill_end"), (Budget::Tokens(90), "prefill_chunk:64,decode_every:8")]
        {
            let mut policy = Policy::new(press.clone(), budget);
            policy.schedule = schedule.parse().unwrap();
            policy.skip_layers = Some(Vec::new());
            (policy.sinks, policy.recents) = (2, 8);
            let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
            let run = Run { prompt: 300, decode: 21 };
            let forecast = match options.forecast(model.config(), run) {
                Ok(forecast) => forecast,
                // it decides itself how much stays, needs a file, or cannot act in chunks
                Err(EngineError::Press { .. }) => continue,
                Err(other) => panic!("{}: {other}", info.name),
            };
            let stats = measured(&model, &options, run);
            let what = format!("{}, {budget}, {schedule}", info.name);
            if forecast.exact {
                assert_eq!(forecast.kv_bytes, stats.kv_bytes, "{what}: kept {:?} {:?}", forecast.kept, stats.layers);
                assert_eq!(forecast.page_bytes, stats.page_bytes, "{what}");
                assert_eq!(forecast.peak_page_bytes, stats.peak_page_bytes, "{what}");
                exact += 1;
            } else {
                assert!(forecast.kv_bytes >= stats.kv_bytes, "{what}: {} {}", forecast.kv_bytes, stats.kv_bytes);
                assert!(forecast.kv_bytes < 2 * stats.kv_bytes + (1 << 16), "{what}: a bound, not a guess");
                bounded += 1;
            }
        }
    }
    assert!(exact > 10 && bounded > 2, "{exact} exact, {bounded} bounded");
}
