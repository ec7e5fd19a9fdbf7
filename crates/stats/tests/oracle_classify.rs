//! Classification statistics against values computed by other implementations, where the reference folder lies beside
//! the checkout.
#![allow(clippy::unwrap_used)]

use meden_stats::classify::Confusion;
use meden_stats::{interval, multiple, ranking};
use serde_json::Value;

fn cases() -> Option<Vec<Value>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle/stats/stats.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no reference values beside this checkout");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn flags(value: &Value) -> Vec<bool> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() == 1).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn computed(stat: &str, input: &Value) -> Option<Vec<f64>> {
    let scored = || (flags(&input["y"]), numbers(&input["score"]));
    let called = || Confusion::of(&flags(&input["y"]), &flags(&input["pred"])).unwrap();
    let count = |key: &str| input[key].as_u64().unwrap();
    Some(match stat {
        "auroc" => vec![ranking::auroc(&scored().0, &scored().1).unwrap()],
        "average_precision" => vec![ranking::average_precision(&scored().0, &scored().1).unwrap()],
        "f1" => vec![called().f_beta(1.0).unwrap()],
        "f2" => vec![called().f_beta(2.0).unwrap()],
        "recall" => vec![called().recall().unwrap()],
        "precision" => vec![called().precision().unwrap()],
        "mcnemar_exact_p" => vec![multiple::sign_test(count("n01"), count("n10"))],
        "wilson_95" => {
            let i = interval::wilson(count("successes"), count("n"), 0.95).unwrap();
            vec![i.low, i.high]
        }
        _ => return None,
    })
}

#[test]
fn classification_statistics_agree_with_the_reference() {
    let Some(cases) = cases() else { return };
    let mut checked = std::collections::BTreeMap::new();
    for case in &cases {
        let stat = case["stat"].as_str().unwrap();
        let Some(values) = computed(stat, &case["input"]) else { continue };
        let expected =
            if case["expect"].is_array() { numbers(&case["expect"]) } else { vec![case["expect"].as_f64().unwrap()] };
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{stat}: {value}, expected {expected}");
        }
        *checked.entry(stat).or_insert(0) += 1;
    }
    assert!(checked.contains_key("auroc") && checked.contains_key("average_precision"), "{checked:?}");
    assert!(checked.contains_key("wilson_95") && checked.contains_key("mcnemar_exact_p"), "{checked:?}");
}
