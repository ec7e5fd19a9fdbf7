//! Activations of prompts whose answer came from the text, or from memory.

use std::path::Path;

use meden_engine::{Control, Site};
use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::DType;
use meden_lens::capture::{Selection, capture};
use meden_lens::place::{Place, Positions};
use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::study::Journal;
use crate::study::conflict::ask::Asker;
use crate::study::conflict::behaviour::{Outcome, Prefixes, Source};
use crate::study::conflict::cells::Cell;
use crate::study::conflict::companions::Companions;
use crate::study::conflict::data::Relation;
use crate::study::conflict::design::Design;
use crate::study::conflict::prompt::{Demo, Demos};

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowOf {
    /// Key of its prompt.
    pub key: String,
    /// Fold of its fact.
    pub fold: u32,
    /// Answer that it is about: rows of one are alike.
    pub cluster: u32,
    /// What the demonstrations show.
    pub demos: Demos,
    /// Whether the answer followed the text.
    pub context: bool,
}

/// Rows of the prompt's last token at some layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collected {
    /// Places, in the order of the layers.
    pub places: Vec<Place>,
    /// Values of a row.
    pub d: usize,
    /// Where rows come from.
    pub rows: Vec<RowOf>,
    /// By place: (rows, d).
    pub values: Vec<Vec<f32>>,
}

/// Captures the last token of every conflicting prompt whose answer came from one of the two sources.
///
/// # Errors
/// What the engine refuses; no such prompt; cancellation.
pub fn collect(
    asker: &Asker<'_>,
    (relations, design): (&[Relation], &Design),
    (cells, sets): (&[Cell], &[Vec<Demo<'_>>]),
    (outcomes, layers): (&Journal<Outcome>, &[usize]),
    companions: &mut Companions<'_>,
) -> Result<Collected, EvalError> {
    let places: Vec<Place> = layers.iter().map(|&layer| Place::new(Site::ResidPost, layer)).collect();
    let selection = Selection::new(places, Positions::Last);
    let places = selection.places.clone();
    let mut all = Collected { values: vec![Vec::new(); places.len()], places, ..Collected::default() };
    all.d = asker.model.config().hidden;
    let mut prefixes = Prefixes::new(*asker, sets);
    let decided = |cell: &&Cell| {
        let outcome = outcomes.get(&cell.key(relations, design));
        cell.is_conflict() && outcome.is_some_and(|o| matches!(o.source, Source::Context | Source::Memory))
    };
    let wanted: Vec<&Cell> = cells.iter().filter(decided).collect();
    for (done, cell) in wanted.iter().enumerate() {
        companions.step("collecting activations", done, wanted.len())?;
        let key = cell.key(relations, design);
        let Some(outcome) = outcomes.get(&key) else { continue };
        let prefix = prefixes.of(cell, companions)?;
        let (ids, read) = asker.tail(prefix, &cell.question(relations, design))?;
        let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
        let captured = capture(prefix.session(), &[ids[read..].to_vec()], &selection, &mut control)?;
        for (values, &place) in all.values.iter_mut().zip(&all.places) {
            values.extend_from_slice(captured.row(place, 0).unwrap_or_default());
        }
        let case = &design.cases[cell.case];
        let context = outcome.source == Source::Context;
        all.rows.push(RowOf { key, fold: case.fold, cluster: case.cluster, demos: cell.demos, context });
    }
    if all.rows.is_empty() {
        let why = "no conflicting prompt was answered from the text or from memory; ask more facts".to_owned();
        return Err(EvalError::Prompt { why });
    }
    Ok(all)
}

impl Collected {
    /// The same rows, fewer of them.
    #[must_use]
    pub fn only(&self, keep: &[usize]) -> Collected {
        let pick = |values: &Vec<f32>| {
            keep.iter().flat_map(|&r| values[r * self.d..(r + 1) * self.d].iter().copied()).collect::<Vec<f32>>()
        };
        Collected {
            places: self.places.clone(),
            d: self.d,
            rows: keep.iter().map(|&r| self.rows[r].clone()).collect(),
            values: self.values.iter().map(pick).collect(),
        }
    }

    /// Rows of the folds that are not left out; with `balance`, as many of each source within each kind of
    /// demonstrations, drawn by the seed: then the label cannot stand for what the demonstrations showed.
    #[must_use]
    pub fn training(&self, left_out: Option<u32>, balance: bool, seed: u64) -> Collected {
        let mut keep: Vec<usize> =
            (0..self.rows.len()).filter(|&r| left_out.is_none_or(|fold| self.rows[r].fold != fold)).collect();
        if balance {
            let mut chosen = Vec::new();
            for (number, demos) in Demos::ALL.into_iter().enumerate() {
                let mut sides = [false, true].map(|context| {
                    let of = |r: &usize| self.rows[*r].demos == demos && self.rows[*r].context == context;
                    keep.iter().copied().filter(of).collect::<Vec<usize>>()
                });
                let count = sides[0].len().min(sides[1].len());
                for (side, rows) in sides.iter_mut().enumerate() {
                    Rng::new(seed, (2 * number + side) as u64).shuffle(rows);
                    chosen.extend_from_slice(&rows[..count]);
                }
            }
            chosen.sort_unstable();
            keep = chosen;
        }
        self.only(&keep)
    }

    /// Whether each row follows the text.
    pub fn labels(&self) -> Vec<bool> {
        self.rows.iter().map(|r| r.context).collect()
    }

    /// The kind of demonstrations of each row.
    pub fn strata(&self) -> Vec<u32> {
        let of = |demos: Demos| Demos::ALL.iter().position(|d| *d == demos).unwrap_or(0) as u32;
        self.rows.iter().map(|r| of(r.demos)).collect()
    }

    /// Rows of a layer, `(rows, d)`; `None` for one that was not collected.
    pub fn layer(&self, layer: usize) -> Option<&[f32]> {
        let at = self.places.iter().position(|p| p.layer == layer)?;
        Some(&self.values[at])
    }

    /// Writes everything to a file. `model` is the model's fingerprint.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&self, path: &Path, model: &str) -> Result<(), EvalError> {
        let rows = serde_json::to_string(&self.rows).unwrap_or_default();
        let mut file = SafetensorsWriter::new()
            .meta("format", "meden-steering-rows")
            .meta("model", model)
            .meta("layers", &self.places.iter().map(|p| p.layer.to_string()).collect::<Vec<_>>().join(","))
            .meta("rows", &rows);
        for (place, values) in self.places.iter().zip(&self.values) {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let shape = [self.rows.len(), self.d];
            file = file.tensor(&place.to_string(), DType::F32, &shape, bytes);
        }
        file.write(path).map_err(lens)
    }

    /// Reads a file that [`Collected::save`] wrote.
    ///
    /// # Errors
    /// A file that is none, or of another model.
    pub fn open(path: &Path, model: &str) -> Result<Collected, EvalError> {
        let file = Safetensors::open(path).map_err(lens)?;
        let of = |key: &str| file.metadata().iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
        let unfit = |why: &str| meden_lens::LensError::Unfit { path: path.to_owned(), why: why.to_owned() };
        if of("format") != "meden-steering-rows" {
            return Err(unfit("no collected activations: make some with `meden steer collect`").into());
        }
        if of("model") != model {
            return Err(unfit("of another model: collect with this one").into());
        }
        let rows: Vec<RowOf> =
            serde_json::from_str(of("rows")).map_err(|_| unfit("its head is damaged: collect again"))?;
        let mut all = Collected { rows, ..Collected::default() };
        for layer in of("layers").split(',').filter_map(|l| l.parse().ok()) {
            let place = Place::new(Site::ResidPost, layer);
            let info = file.tensor(&place.to_string()).map_err(lens)?;
            let bytes = file.read(info).map_err(lens)?;
            all.d = info.shape.last().copied().unwrap_or(0);
            if info.shape != [all.rows.len(), all.d] {
                return Err(unfit("its tensors have other sizes than its head says: collect again").into());
            }
            all.values.push(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
            all.places.push(place);
        }
        Ok(all)
    }
}

fn lens(error: meden_files::FileError) -> EvalError {
    EvalError::Lens(error.into())
}
