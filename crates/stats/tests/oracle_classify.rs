//! Classification statistics against values computed by other implementations, where the reference folder lies beside
//! the checkout.
#![allow(clippy::unwrap_used)]

use meden_stats::agreement::{self, Scale, Weight};
use meden_stats::classify::Confusion;
use meden_stats::{correlation, interval, multiple, ranking};
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

fn categories(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).unwrap()
}

fn agreement_of(stat: &str, input: &Value) -> Option<f64> {
    let pair = || (categories(&input["a"]), categories(&input["b"]));
    let most = || pair().0.iter().chain(&pair().1).max().unwrap() + 1;
    let labels = || input["labels"].as_array().map_or_else(most, Vec::len);
    let kappa = |weight| agreement::cohen_kappa(&pair().0, &pair().1, labels(), weight);
    let alpha = |scale| {
        let ratings: Vec<Vec<Option<f64>>> = serde_json::from_value(input["raters_by_items"].clone()).unwrap();
        agreement::krippendorff_alpha(&ratings, scale)
    };
    match stat {
        "cohen_kappa" => kappa(Weight::Nominal),
        "cohen_kappa_linear" => kappa(Weight::Linear),
        "cohen_kappa_quadratic" => kappa(Weight::Quadratic),
        "percent_agreement" => agreement::percent(&pair().0, &pair().1),
        "gwet_ac1" => agreement::gwet_ac1_table(&agreement::table(&pair().0, &pair().1, labels()).unwrap()),
        "fleiss_kappa" => {
            let ratings: Vec<Vec<usize>> = serde_json::from_value(input["ratings"].clone()).unwrap();
            let k = ratings.iter().flatten().max().unwrap() + 1;
            let count = |row: &Vec<usize>| (0..k).map(|c| row.iter().filter(|&&v| v == c).count() as u32).collect();
            agreement::fleiss_kappa(&ratings.iter().map(count).collect::<Vec<_>>())
        }
        "krippendorff_alpha_nominal" => alpha(Scale::Nominal),
        "krippendorff_alpha_ordinal" => alpha(Scale::Ordinal),
        "krippendorff_alpha_interval" => alpha(Scale::Interval),
        _ => None,
    }
}

fn computed(stat: &str, input: &Value) -> Option<Vec<f64>> {
    let scored = || (flags(&input["y"]), numbers(&input["score"]));
    let called = || Confusion::of(&flags(&input["y"]), &flags(&input["pred"])).unwrap();
    let count = |key: &str| input[key].as_u64().unwrap();
    let correlated =
        |f: fn(&[f64], &[f64]) -> Option<f64>| vec![f(&numbers(&input["x"]), &numbers(&input["y"])).unwrap()];
    if let Some(value) = agreement_of(stat, input) {
        return Some(vec![value]);
    }
    Some(match stat {
        "kendall_tau_b" => correlated(correlation::kendall_tau_b),
        "spearman_rho" => correlated(correlation::spearman),
        "pearson_r" => correlated(correlation::pearson),
        "mcnemar_chi2_corrected" => {
            let (statistic, p) = multiple::mcnemar_corrected(count("n01"), count("n10")).unwrap();
            vec![statistic, p]
        }
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
            assert!(
                (value - expected).abs() < if stat.ends_with("ordinal") { 1e-6 } else { 1e-9 },
                "{stat}: {value}, expected {expected}"
            );
        }
        *checked.entry(stat).or_insert(0) += 1;
    }
    assert!(checked.contains_key("auroc") && checked.contains_key("average_precision"), "{checked:?}");
    for stat in ["cohen_kappa_quadratic", "gwet_ac1", "fleiss_kappa", "krippendorff_alpha_ordinal", "kendall_tau_b"] {
        assert!(checked.contains_key(stat), "{stat}: {checked:?}");
    }
    assert!(checked.contains_key("wilson_95") && checked.contains_key("mcnemar_exact_p"), "{checked:?}");
}
