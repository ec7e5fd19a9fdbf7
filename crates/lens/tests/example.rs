//! The example of the guide is compiled and run, and the guide shows it as it stands.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "../examples/capture.rs"]
mod example;

use meden_engine::Site;

#[test]
fn the_example_of_the_guide_gives_the_stream_behind_layer_12() {
    let model = common::smollm2(); // fetched where it is not here
    let rows = example::stream(meden_files::source::DEFAULT, "The capital of France is").unwrap();
    let tokenizer = meden_engine::text::Tokenizer::load(&common::smollm2_files()).unwrap();
    let ids = tokenizer.encode("The capital of France is", true).unwrap();
    let want = common::grab(&model, &ids, "blocks.12.hook_resid_post", "all");
    assert_eq!(rows.len(), ids.len());
    assert!(common::same_bits(&rows.concat(), want.matrix(common::place(Site::ResidPost, 12)).unwrap()));
}

#[test]
fn the_guide_shows_the_example() {
    let (example, guide) = (include_str!("../examples/capture.rs"), include_str!("../../../docs/lens.md"));
    let body = &example[example.find("use ").unwrap()..example.find("#[allow(dead_code)]").unwrap()];
    assert!(guide.contains(body.trim()), "docs/lens.md has another example");
}
