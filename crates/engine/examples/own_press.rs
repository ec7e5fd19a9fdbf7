//! A press of your own in a few lines: keep the tokens whose values are largest.
//!
//! cargo run --release -p meden-engine --example own_press -- MODEL.gguf

use std::sync::Arc;

use meden_engine::{
    Budget, Control, EngineError, LayerView, LoadOptions, Model, Needs, Policy, Press, PressSpec, Scores, Session,
    SessionOptions,
};

/// Keep the slots of largest value norm.
struct LoudValues;

impl Press for LoudValues {
    fn name(&self) -> &'static str {
        "loud_values"
    }

    fn needs(&self) -> Needs {
        Needs { values: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| {
            let values = head.values(); // (slots, value_dim)
            for (score, value) in row.iter_mut().zip(values.chunks_exact(head.layout().value_dim())) {
                *score = value.iter().map(|v| v * v).sum::<f32>().sqrt();
            }
        });
        Ok(())
    }
}

/// Reads `ids` with a budget of `tokens` a layer; returns how many slots each head of each layer kept.
pub fn kept(model: Arc<Model>, ids: &[u32], tokens: usize) -> Result<Vec<Vec<usize>>, EngineError> {
    let policy = Policy { sinks: 4, recents: 8, ..Policy::new(PressSpec::knorm(), Budget::Tokens(tokens)) };
    let policy = Policy { skip_layers: Some(vec![]), ..policy };
    let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
    let mut session = Session::with_press(model, options, Arc::new(LoudValues))?;
    session.prefill(ids, &mut Control::default())?;
    Ok(session.stats().layers.into_iter().map(|layer| layer.kept).collect())
}

#[allow(dead_code)] // the test calls `kept`
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: own_press MODEL.gguf")?;
    let model = Model::load(&meden_files::ModelFiles::open(path.as_ref())?, &LoadOptions::default())?;
    let ids: Vec<u32> = (0..600).map(|i| 100 + i * 7 % 1000).collect();
    for (layer, kept) in kept(model, &ids, 128)?.iter().enumerate() {
        println!("layer {layer}: {kept:?}");
    }
    Ok(())
}
