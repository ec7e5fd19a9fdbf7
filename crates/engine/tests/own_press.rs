//! The press of the guide is compiled and run as it stands.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "../examples/own_press.rs"]
mod example;

#[test]
fn the_press_of_the_guide_keeps_what_its_budget_says() {
    let Some(model) = common::tiny("llama") else { return };
    let kept = example::kept(model.clone(), &common::ids(100), 24).unwrap();
    assert_eq!(kept.len(), model.config().layers);
    assert!(kept.iter().flatten().all(|&slots| slots == 24), "{kept:?}");
}
