//! The residual stream behind layer 12 for a prompt, in twenty lines.
//!
//! cargo run --release -p meden-lens --example capture -- [MODEL]

use meden_engine::text::Tokenizer;
use meden_engine::{Control, LoadOptions, Model, Site};
use meden_files::{ModelFiles, source};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::place::Place;

/// The rows, one a token, each `hidden` values.
pub fn stream(model: &str, prompt: &str) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error>> {
    let path = source::resolve(model, &source::ResolveOptions::from_env(), &mut source::Silent)?;
    let files = ModelFiles::open(&path)?;
    let model = Model::load(&files, &LoadOptions::default())?;
    let ids = Tokenizer::load(&files)?.encode(prompt, true)?;

    let session = exact_session(&model)?;
    let wanted = Selection::parse(model.config(), "resid_post", "12", "all")?;
    let captured = capture(&session, &[ids], &wanted, &mut Control::default())?;

    let place = Place::new(Site::ResidPost, 12);
    let row = |number| captured.row(place, number).map(<[f32]>::to_vec);
    Ok((0..captured.rows().len()).filter_map(row).collect())
}

#[allow(dead_code)] // the test calls `stream`
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or_else(|| source::DEFAULT.to_owned());
    for (token, row) in stream(&model, "The capital of France is")?.iter().enumerate() {
        println!("token {token}: {} values, the first {:.3}", row.len(), row[0]);
    }
    Ok(())
}
