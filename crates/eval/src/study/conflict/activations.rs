//! Activations at the last token of every prompt, on disk, and back as rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meden_engine::{Config, Control, Site};
use meden_lens::capture::{CaptureFile, Dtype, FileCapture, Selection, capture_to_file};
use meden_lens::place::{Place, Positions};
use meden_lens::probe::Rows;

use super::ask::Asker;
use super::behaviour::Prefixes;
use super::cells::Cell;
use super::companions::Companions;
use super::data::Relation;
use super::design::Design;
use super::prompt::Demos;
use crate::error::EvalError;

/// Sites that are looked at, as in the paper: the stream behind a block, and what its two halves add.
pub const SITES: [Site; 3] = [Site::ResidPost, Site::AttnOut, Site::MlpOut];

/// Every place that is looked at.
pub fn places(config: &Config) -> Vec<Place> {
    let mut all: Vec<Place> = (0..config.layers).flat_map(|layer| SITES.map(|site| Place::new(site, layer))).collect();
    all.sort_unstable();
    all
}

/// Rows of cells, in the order of the cells that were given.
pub struct Activations {
    files: Vec<CaptureFile>,
    /// File and row of each cell.
    at: Vec<(usize, usize)>,
}

/// Captures the cells' last tokens: a file for each kind and set of demonstrations, in half precision. A file that is
/// there is not made again; one that was interrupted goes on.
///
/// # Errors
/// What the engine refuses; a file of another study in the way; cancellation.
pub fn activations(
    asker: &Asker<'_>,
    (relations, design): (&[Relation], &Design),
    (cells, prefixes): (&[Cell], &mut Prefixes<'_>),
    folder: &Path,
    companions: &mut Companions<'_>,
) -> Result<Activations, EvalError> {
    let mut groups: BTreeMap<(Demos, usize), Vec<usize>> = BTreeMap::new();
    for (number, cell) in cells.iter().enumerate() {
        groups.entry((cell.demos, cell.set)).or_default().push(number);
    }
    let selection = Selection::new(places(asker.model.config()), Positions::Last);
    let mut all = Activations { files: Vec::new(), at: vec![(0, 0); cells.len()] };
    let mut done = 0;
    for ((demos, set), members) in groups {
        companions.step("capturing", done, cells.len())?;
        let prefix = prefixes.of(&cells[members[0]], companions)?;
        let mut prompts = Vec::with_capacity(members.len());
        for &number in &members {
            let (ids, read) = asker.tail(prefix, &cells[number].question(relations, design))?;
            prompts.push(ids[read..].to_vec());
        }
        let path = file(folder, demos, set);
        let options = FileCapture { path: path.clone(), dtype: Dtype::F16, generate: None };
        let cancel = companions.cancel;
        let total: usize = prompts.iter().map(Vec::len).sum();
        let mut show = |tokens: usize, _: usize| {
            let share = members.len() * tokens / total.max(1);
            (companions.progress)("capturing", done + share, cells.len());
        };
        let mut control = Control { progress: Some(&mut show), cancel: Some(cancel), ..Control::default() };
        capture_to_file(prefix.session(), &prompts, &selection, &options, &mut control)?;
        let number_of_file = all.files.len();
        members.iter().enumerate().for_each(|(row, &number)| all.at[number] = (number_of_file, row));
        all.files.push(CaptureFile::open(&path)?);
        done += members.len();
    }
    Ok(all)
}

fn file(folder: &Path, demos: Demos, set: usize) -> PathBuf {
    folder.join(format!("activations-{}-{set}.safetensors", demos.name()))
}

impl Activations {
    /// Rows of a place for the cells named, in that order.
    ///
    /// # Errors
    /// A place that was not captured, a file that has become shorter.
    pub fn rows(&self, place: Place, cells: &[usize]) -> Result<Rows, EvalError> {
        let mut read: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut values = Vec::new();
        let mut width = 0;
        for &cell in cells {
            let (file, row) = self.at[cell];
            if let std::collections::btree_map::Entry::Vacant(e) = read.entry(file) {
                let capture = &self.files[file];
                e.insert(capture.read(place, 0..capture.len())?);
            }
            width = self.files[file].width(place).unwrap_or(0);
            values.extend_from_slice(&read[&file][row * width..(row + 1) * width]);
        }
        Ok(Rows::new(values, width.max(1))?)
    }
}
