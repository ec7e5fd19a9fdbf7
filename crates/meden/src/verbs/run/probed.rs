//! `meden run --probe`: what a saved probe says before each token is chosen.

use std::path::{Path, PathBuf};

use meden_engine::Model;
use meden_engine::text::Tokenizer;
use meden_lens::probe::{ProbeFile, ProbeHook};
use meden_report::Table;
use serde::Serialize;

/// A probe that was read from a file.
pub struct Probe {
    path: PathBuf,
    file: ProbeFile,
}

/// What it said of each written token.
#[derive(Serialize)]
pub struct Probed {
    file: PathBuf,
    place: String,
    classes: [String; 2],
    /// AUROC and interval that the probe was judged at, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    auroc: Option<[f64; 3]>,
    values: Vec<Value>,
}

/// What it said at the token that a written one was chosen from.
#[derive(Serialize)]
struct Value {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f64,
    probability: f64,
}

impl Probe {
    /// Reads it.
    pub fn load(path: &Path) -> anyhow::Result<Probe> {
        Ok(Probe { path: path.to_owned(), file: ProbeFile::load(path)? })
    }

    /// A hook that asks it, in the model it was made for.
    pub fn hook(&self, name: &str, model: &Model) -> anyhow::Result<ProbeHook<'_>> {
        self.file.check(name, model)?;
        let place = self.file.about.place.place()?;
        Ok(ProbeHook::new(&self.file.probe, place.site, place.layer))
    }

    /// The scores that belong to written tokens: each was chosen from the state of the token before it.
    pub fn values(
        &self,
        scores: &[(u32, f64)],
        prompt: usize,
        (tokenizer, ids): (Option<&Tokenizer>, &[u32]),
    ) -> Probed {
        let about = &self.file.about;
        let of = scores.iter().skip(prompt.saturating_sub(1)).zip(ids);
        let value = |(&(_, score), &id): (&(u32, f64), &u32)| Value {
            id,
            text: tokenizer.map(|t| t.decode(&[id], false)),
            score,
            probability: self.file.of_score(score),
        };
        Probed {
            file: self.path.clone(),
            place: format!("{}.{}", about.place.layer, about.place.site),
            classes: about.classes.clone(),
            auroc: about.evaluation.as_ref().map(|e| [e.auroc.value, e.auroc.low, e.auroc.high]),
            values: of.map(value).collect(),
        }
    }
}

impl Probed {
    /// As a table.
    pub fn table(&self) -> String {
        let mut table = Table::new(["token".to_owned(), "score".to_owned(), format!("p({})", self.classes[1])]);
        for v in &self.values {
            let token = v.text.clone().unwrap_or_else(|| v.id.to_string());
            table.row([token, format!("{:.3}", v.score), format!("{:.3}", v.probability)]);
        }
        let judged = self.auroc.map_or_else(
            || "never judged".to_owned(),
            |[value, low, high]| format!("judged at an AUROC of {value:.2} [{low:.2}, {high:.2}]"),
        );
        format!("{table}probe at {}, {judged}\n", self.place)
    }
}
