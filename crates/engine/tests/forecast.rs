//! The forecast of a cache's bytes against what a session measures, for every family and kind of budget.
#![allow(clippy::unwrap_used)]

mod common;

use common::{load, oracle};
use meden_engine::{
    Budget, Control, EngineError, KvTypes, Policy, Run, Schedule, Session, SessionOptions, SkipOverflow, WeightMode,
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
            let mut session = Session::new(model.clone(), options.clone()).unwrap();
            let ids: Vec<u32> = (0..run.prompt as u32).map(|i| 3 + i * 7 % 300).collect();
            session.prefill(&ids, &mut Control::default()).unwrap();
            for id in 0..run.decode as u32 {
                session.decode(5 + id, &mut Control::default()).unwrap();
            }
            let stats = session.stats();
            let kept: Vec<usize> = stats.layers.iter().map(|l| l.kept[0]).collect();
            let what = format!("{family}, {:?}", options.policy);
            assert_eq!(forecast.kept, kept, "{what}");
            assert_eq!(forecast.kv_bytes, stats.kv_bytes, "{what}");
            assert_eq!(forecast.page_bytes, stats.page_bytes, "{what}");
            assert_eq!(forecast.dense_bytes, stats.dense_bytes, "{what}");
            assert_eq!(forecast.peak_page_bytes, stats.peak_page_bytes, "{what}");
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
            let mut session = Session::new(model.clone(), options.clone()).unwrap();
            let ids: Vec<u32> = (0..run.prompt as u32).map(|i| 3 + i * 7 % 300).collect();
            session.prefill(&ids, &mut Control::default()).unwrap();
            for id in 0..run.decode as u32 {
                session.decode(5 + id, &mut Control::default()).unwrap();
            }
            let stats = session.stats();
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
