//! Moments against values computed by scipy, where the reference folder lies beside the checkout.
#![allow(clippy::unwrap_used)]

use meden_stats::Distribution;
use meden_stats::moments::Moments;
use serde_json::Value;

#[test]
fn moments_agree_with_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle/stats/stats.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no reference values beside this checkout");
        return;
    };
    let cases: Vec<Value> = serde_json::from_str(&text).expect("the reference file is JSON");
    let mut checked = 0;
    for case in cases.iter().filter(|c| c["stat"] == "moments") {
        let x: Vec<f64> = serde_json::from_value(case["input"]["x"].clone()).expect("numbers");
        let m = Moments::of(x);
        let expect = |key: &str| case["expect"][key].as_f64().expect("a number");
        assert!((m.skewness() - expect("skewness")).abs() < 1e-9);
        assert!((m.excess_kurtosis() - expect("kurtosis_excess")).abs() < 1e-9);
        checked += 1;
    }
    assert!(checked > 0, "the reference file holds no case of moments");
}

#[test]
fn distributions_agree_with_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle/stats/stats.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no reference values beside this checkout");
        return;
    };
    let cases: Vec<Value> = serde_json::from_str(&text).expect("the reference file is JSON");
    let mut checked = 0;
    for case in &cases {
        let names: &[&str] = match case["stat"].as_str() {
            Some("moments") => &["skewness", "kurtosis"],
            Some("sparsity") => &["l1", "l2", "hoyer", "gini"],
            _ => continue,
        };
        let x: Vec<f64> = serde_json::from_value(case["input"]["x"].clone()).expect("numbers");
        let got = Distribution::of(x).expect("finite numbers");
        for name in names {
            let key = if *name == "kurtosis" { "kurtosis_pearson" } else { name };
            let want = case["expect"][key].as_f64().expect("a number");
            let at = Distribution::NAMES.iter().position(|n| n == name).expect("a measure");
            let value = got.measures()[at];
            assert!((value - want).abs() <= 1e-9 * want.abs().max(1.0), "{name}: {value} against {want}");
        }
        checked += 1;
    }
    assert!(checked > 1, "the reference file holds no case of distributions");
}
