//! Moments against values computed by scipy, where the reference folder lies beside the checkout.
#![allow(clippy::unwrap_used)]

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
