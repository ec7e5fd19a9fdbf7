//! Activations as they pass by: in memory, or streamed to a file.
//!
//! What is captured is copied the moment it passes, so a later edit cannot change it. Reading is done on a fork of the
//! session that is given: it may hold a prefix that all prompts share, and it stays as it was. Layers behind the last
//! one that is wanted are not run.

mod copy;
mod file;
mod generate;
mod job;
mod layout;
mod memory;
mod write;

use meden_engine::{Config, Control, KvTypes, LogitRows, Model, Session, SessionOptions};
use serde::Serialize;
use std::sync::Arc;

pub use file::CaptureFile;
pub use memory::{Captured, capture};
pub use write::{Dtype, FileCapture, Finished, capture_to_file};

use crate::companions::reborrow;
use crate::error::LensError;
use crate::place::{Layers, Place, Positions, places};
use copy::{CopyRows, Sink};

/// What of a prompt is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Places, in the order the data flows.
    pub places: Vec<Place>,
    /// Positions of each prompt.
    pub positions: Positions,
}

impl Selection {
    /// Sites (`resid_post`, `resid_*,logits`, `blocks.3.hook_z`; see [`places`]), layers (`all`, `0-3,7,-1`) and
    /// positions (`all`, `last`, `0,4-9,-1`) as people write them.
    ///
    /// # Errors
    /// Names or numbers that the model does not have.
    pub fn parse(config: &Config, sites: &str, layers: &str, positions: &str) -> Result<Selection, LensError> {
        let layers: Layers = layers.parse()?;
        Ok(Selection { places: places(sites, &layers, config)?, positions: positions.parse()? })
    }

    /// Some places of some positions, in any order.
    pub fn new(mut places: Vec<Place>, positions: Positions) -> Selection {
        places.sort_unstable();
        places.dedup();
        Selection { places, positions }
    }

    /// Which rows of logits a forward pass has to give.
    fn logit_rows(&self, wanted: &[usize], tokens: usize) -> LogitRows {
        if !self.places.iter().any(|p| p.site.is_global()) {
            return LogitRows::None;
        }
        if wanted == [tokens - 1] { LogitRows::Last } else { LogitRows::All }
    }
}

/// Where a captured row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RowOf {
    /// Number of the prompt.
    pub prompt: usize,
    /// Position in the prompt, from 0; behind the prompt's end for tokens that were generated.
    pub position: usize,
    /// Id of the token at the position.
    pub id: u32,
}

/// An empty session whose cache rounds nothing, which is what most looking wants.
///
/// # Errors
/// None for a model that could be loaded.
pub fn exact_session(model: &Arc<Model>) -> Result<Session, LensError> {
    let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    Ok(Session::new(model.clone(), options)?)
}

/// Reads one prompt behind a session and hands the wanted rows to a sink. Hooks of `control` come before the copying,
/// so what they edit is what is captured.
fn read_prompt(
    session: &Session,
    ids: &[u32],
    selection: &Selection,
    sink: &mut dyn Sink,
    control: &mut Control<'_>,
) -> Result<(), LensError> {
    if ids.is_empty() {
        return Err(meden_engine::EngineError::NoTokens.into());
    }
    let wanted = selection.positions.resolve(ids.len())?;
    if wanted.is_empty() {
        return Ok(());
    }
    let rows = selection.logit_rows(&wanted, ids.len());
    let first_logits = if rows == LogitRows::Last { ids.len() - 1 } else { 0 };
    let mut copy = CopyRows::new(&selection.places, wanted, first_logits, sink);
    let looked = {
        let mut control = reborrow(control);
        control.hooks.push(&mut copy);
        session.look(ids, rows, &mut control)
    };
    copy.outcome(looked)
}
