//! What models answered: completions joined to items by their id, and the accuracy of each model in four views.

use std::collections::HashMap;
use std::path::Path;

use meden_stats::Interval;
use meden_stats::interval::wilson;

use super::labels::{Label, Labelled};
use crate::choice::import::bytes;
use crate::choice::table::{Csv, items_error};
use crate::error::EvalError;

/// Completions of several models.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// Names of the models.
    pub models: Vec<String>,
    /// Completions by id, one a model.
    pub answers: HashMap<String, Vec<String>>,
}

/// Reads a table with a column `id` and one a model.
///
/// # Errors
/// A file that cannot be read, no column `id`, an id that occurs twice.
pub fn read(path: &Path) -> Result<Predictions, EvalError> {
    let name = path.display().to_string();
    let table = Csv::read(&name, &bytes(path)?)?;
    let id = table.need(&name, "id")?;
    let columns: Vec<usize> = (0..table.header.len()).filter(|&c| c != id).collect();
    let models = columns.iter().map(|&c| table.header[c].clone()).collect();
    let mut answers = HashMap::new();
    for (line, cells) in &table.rows {
        let said = columns.iter().map(|&c| cells[c].trim().to_owned()).collect();
        if answers.insert(cells[id].clone(), said).is_some() {
            return Err(items_error(&name, *line, &format!("the id `{}` occurs twice", cells[id])));
        }
    }
    Ok(Predictions { models, answers })
}

/// The option that a completion names: exactly one of the item's letters; `None` for anything else.
pub fn option(completion: &str, options: usize) -> Option<usize> {
    match completion.trim().as_bytes() {
        [c @ b'A'..=b'Z'] => Some(usize::from(c - b'A')).filter(|&o| o < options),
        _ => None,
    }
}

/// Which items count, and which options are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All items, original keys.
    All,
    /// Items labelled ok.
    Ok,
    /// Items that are ok or could be repaired, with the repaired keys.
    Repaired,
    /// Items with a fault, without those that need a specialist, original keys.
    Faulty,
}

impl View {
    /// All views, in the order of the tables.
    pub const ALL: [View; 4] = [View::All, View::Ok, View::Repaired, View::Faulty];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            View::All => "all",
            View::Ok => "ok",
            View::Repaired => "repaired",
            View::Faulty => "faulty",
        }
    }

    /// Right options of a row in this view; `None` where it does not count.
    pub fn right(self, row: &Labelled) -> Option<&[usize]> {
        match self {
            View::All => Some(&row.item.right),
            View::Ok => (row.label == Label::Ok).then_some(&row.item.right),
            View::Repaired => row.repaired(),
            View::Faulty => (row.label != Label::Ok && row.label != Label::Expert).then_some(&row.item.right),
        }
    }
}

/// A count of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Right answers.
    pub right: u64,
    /// Items.
    pub n: u64,
}

impl Score {
    /// Takes in an answer.
    pub fn add(&mut self, right: bool) {
        self.right += u64::from(right);
        self.n += 1;
    }

    /// The share; `None` without items.
    pub fn share(self) -> Option<f64> {
        (self.n > 0).then(|| self.right as f64 / self.n as f64)
    }

    /// Wilson's interval of the share.
    pub fn interval(self, level: f64) -> Option<Interval> {
        wilson(self.right, self.n, level)
    }
}

/// Whether each matched item of a view was answered rightly: `[item][model]`, for items that `keep` takes.
pub fn outcomes(
    rows: &[Labelled],
    predictions: &Predictions,
    view: View,
    keep: impl Fn(&Labelled) -> bool,
) -> Vec<Vec<bool>> {
    let kept = rows.iter().filter(|r| keep(r));
    kept.filter_map(|row| {
        let said = predictions.answers.get(&row.item.id)?;
        let right = view.right(row)?;
        let hit = |s: &String| option(s, row.item.choices.len()).is_some_and(|o| right.contains(&o));
        Some(said.iter().map(hit).collect())
    })
    .collect()
}

/// Scores of each model.
pub fn scores(outcomes: &[Vec<bool>], models: usize) -> Vec<Score> {
    let mut scores = vec![Score::default(); models];
    for item in outcomes {
        scores.iter_mut().zip(item).for_each(|(score, &right)| score.add(right));
    }
    scores
}

/// Groups of models that agree on more than `least` of at least 200 common items; the first of a group votes for it.
pub fn voters(predictions: &Predictions, least: f64) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::new();
    for model in 0..predictions.models.len() {
        let twin = kept.iter().any(|&other| {
            let same = predictions.answers.values().filter(|a| a[model] == a[other]).count();
            let n = predictions.answers.len();
            n >= 200 && same as f64 > least * n as f64
        });
        if !twin {
            kept.push(model);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_letter_of_the_item_is_an_answer() {
        assert_eq!(option(" C", 4), Some(2));
        for other in ["E", "", "The", "c", "AB"] {
            assert_eq!(option(other, 4), None, "{other}");
        }
    }

    #[test]
    fn near_copies_of_a_model_have_one_vote() {
        let answers = (0..300)
            .map(|i| {
                let own = if i % 3 == 0 { "B" } else { "A" };
                (i.to_string(), vec!["A".to_owned(), if i == 0 { "B" } else { "A" }.to_owned(), own.to_owned()])
            })
            .collect();
        let models = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(voters(&Predictions { models, answers }, 0.98), [0, 2]);
    }
}
