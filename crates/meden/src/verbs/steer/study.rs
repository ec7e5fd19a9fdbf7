//! What the verbs share: facts, the work folder, autoencoders, and how edits are fitted.

use std::path::{Path, PathBuf};

use anyhow::Context;
use meden_engine::Model;
use meden_eval::study::Journal;
use meden_eval::study::conflict::cells::demonstration_sets;
use meden_eval::study::conflict::data::{FACTS, Relation, parse};
use meden_eval::study::conflict::design::Design;
use meden_eval::study::conflict::memory::Recall;
use meden_eval::study::conflict::prompt::Demo;
use meden_eval::study::steer::collect::Collected;
use meden_eval::study::steer::fit::{Code, Dictionaries, Options};
use meden_lens::place::{Layers, places};
use meden_lens::sae::load as load_sae;
use meden_lens::steer::{Estimator, Mode, Rule};
use serde::{Deserialize, Serialize};

use crate::exit::usage;
use crate::{load, prompt};

/// Seed of demonstrations and folds.
pub const SEED: u64 = 1;
/// Sets of demonstrations, and how many facts each shows.
pub const SETS: (usize, usize) = (3, 3);

/// What a work folder was made with; written once, and held against every later call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Fingerprint of the model.
    pub model: String,
    /// SHA-256 of the facts.
    pub facts: String,
    /// Most facts of one answer.
    pub per_answer: usize,
    /// Contexts of each fact that are asked.
    pub contexts: usize,
    /// False answers of each fact that are asked.
    pub others: usize,
}

/// The folder of a study.
pub struct Work {
    folder: PathBuf,
}

impl Work {
    /// Opens or begins a folder.
    pub fn new(folder: &Path) -> anyhow::Result<Work> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        Ok(Work { folder: folder.to_owned() })
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Checks that the folder belongs to this setup, and notes it where it is new.
    pub fn bind(&self, setup: &Setup) -> anyhow::Result<()> {
        let path = self.file("setup.json");
        if path.exists() {
            let before: Setup = serde_json::from_str(&prompt::read_text(&path)?)
                .with_context(|| format!("{}: damaged; begin in another folder", path.display()))?;
            if &before != setup {
                return Err(usage(format!(
                    "--work: {} was begun with another model, other facts or other numbers of them; use another folder",
                    self.folder.display()
                )));
            }
            return Ok(());
        }
        crate::verbs::sae::write_json(&path, setup)
    }

    /// What the folder was made with.
    pub fn setup(&self) -> anyhow::Result<Setup> {
        let path = self.file("setup.json");
        let text = prompt::read_text(&path).context("no study in this folder; begin with `meden steer collect`")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A journal in it.
    pub fn journal<T: Serialize + serde::de::DeserializeOwned>(&self, name: &str) -> anyhow::Result<Journal<T>> {
        Ok(Journal::open(&self.file(name))?)
    }
}

/// The facts: those of the program, or of a file.
pub fn facts(file: Option<&Path>) -> anyhow::Result<(Vec<Relation>, String)> {
    let text = match file {
        Some(path) => prompt::read_text(path)?,
        None => FACTS.to_owned(),
    };
    let mut hash = meden_files::hash::Hash::sha256();
    hash.update(text.as_bytes());
    Ok((parse(&text)?, hash.hex()))
}

/// Sets of demonstrations of the program's own facts.
pub fn sets(relations: &[Relation], (sets, size): (usize, usize)) -> Vec<Vec<Demo<'_>>> {
    demonstration_sets(relations, (sets, size), SEED, |_, _| true)
}

/// The design that a journal of recalled facts gives.
pub fn design(
    asker: &meden_eval::study::conflict::ask::Asker<'_>,
    relations: &[Relation],
    journal: &Journal<Recall>,
    per_answer: usize,
) -> anyhow::Result<Design> {
    let design = meden_eval::study::conflict::design::design(asker, relations, journal, (per_answer, SEED))?;
    if design.cases.is_empty() {
        return Err(usage("the model knows too few of these facts to test anything; give others with --facts"));
    }
    Ok(design)
}

/// A model's fingerprint in hexadecimal.
pub fn fingerprint(model: &Model) -> String {
    model.fingerprint().iter().map(|b| format!("{b:02x}")).collect()
}

/// Flags that say how edits are made.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Edit")]
pub struct EditArgs {
    /// Folder of an autoencoder; once for each layer that is edited
    #[arg(long, value_name = "FOLDER")]
    pub sae: Vec<PathBuf>,
    /// Layers that are edited; default: those of the autoencoders
    #[arg(long, value_name = "N,N")]
    pub layers: Option<String>,
    /// Which latents: null[:MOST] (those that beat chance), rate[:Q] (a false discovery rate, 0.01), share:K (the paper's),
    /// top:N
    #[arg(long, default_value = "null", value_name = "RULE")]
    pub rule: String,
    /// How information is estimated: binned, neighbour (as the released code; slow with null)
    #[arg(long, default_value = "binned", value_name = "binned|neighbour")]
    pub mi: String,
    /// How strength enters: as the released code or the paper has it
    #[arg(long, default_value = "code", value_name = "code|paper")]
    pub mode: String,
    /// How competing latents are computed: relu (as the released code), threshold (as sparse as in training)
    #[arg(long, default_value = "relu", value_name = "relu|threshold")]
    pub code: String,
    /// As many prompts of each source within each kind of demonstrations
    #[arg(long)]
    pub balance: bool,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

impl EditArgs {
    /// How edits are fitted.
    pub fn options(&self) -> anyhow::Result<Options> {
        let number = |text: Option<&str>, or: usize| match text {
            None => Ok(or),
            Some(text) => text.parse::<usize>().map_err(|_| usage(format!("--rule: {text} is no number"))),
        };
        let (name, more) = self.rule.split_once(':').map_or((self.rule.as_str(), None), |(n, m)| (n, Some(m)));
        let rule = match name {
            "null" => Rule::Null { level: 0.05, draws: 200, most: number(more, 64)? },
            "top" => Rule::Top { count: number(more, 32)? },
            "share" => {
                let of: f64 = more.and_then(|m| m.parse().ok()).unwrap_or(f64::NAN);
                if !(0.0..=1.0).contains(&of) {
                    return Err(usage(format!("--rule: {}; a share is written share:0.07", self.rule)));
                }
                Rule::Share { of }
            }
            "rate" => {
                let rate: f64 = more.map_or(Ok(0.01), str::parse).unwrap_or(f64::NAN);
                if !(rate > 0.0 && rate < 1.0) {
                    return Err(usage(format!("--rule: {}; a rate is written rate:0.01", self.rule)));
                }
                Rule::Rate { rate, draws: 200, most: 64 }
            }
            _ => return Err(usage(format!("--rule: {}; null:64, rate:0.01, share:0.07 or top:32", self.rule))),
        };
        let mode = match self.mode.as_str() {
            "code" => Mode::Code,
            "paper" => Mode::Paper,
            other => return Err(usage(format!("--mode: {other}; code or paper"))),
        };
        let code = match self.code.as_str() {
            "relu" => Code::Relu,
            "threshold" => Code::Threshold,
            other => return Err(usage(format!("--code: {other}; relu or threshold"))),
        };
        let estimator = match self.mi.as_str() {
            "binned" => Estimator::Binned,
            "neighbour" => Estimator::Neighbour,
            other => return Err(usage(format!("--mi: {other}; binned or neighbour"))),
        };
        Ok(Options { rule, estimator, mode, code, balance: self.balance, seed: self.seed })
    }

    /// The autoencoders, read as the options say, and the layers to edit.
    pub fn dictionaries(
        &self,
        opened: &load::Opened,
        (rows, threads): (&Collected, usize),
    ) -> anyhow::Result<(Dictionaries, Vec<usize>)> {
        let code = self.options()?.code;
        let mut all = Vec::new();
        for folder in &self.sae {
            let parts = load_sae(folder)?;
            let site = parts.origin.site.clone().unwrap_or_default();
            let found = places(&site, &Layers::all(), &opened.config)?;
            let [place] = found[..] else {
                return Err(usage(format!(
                    "--sae: {} is of {site:?}, not of one site of this model",
                    folder.display()
                )));
            };
            if place.site != meden_engine::Site::ResidPost {
                return Err(usage(format!("--sae: {} is of {place}; steering edits resid_post", folder.display())));
            }
            all.push((place.layer, parts, threshold(folder)));
        }
        let dictionaries = Dictionaries::new(all, code, threads)?;
        let layers = match &self.layers {
            Some(text) => text.parse::<Layers>()?.resolve(opened.config.layers)?,
            None if !self.sae.is_empty() => dictionaries.layers(),
            None => rows.places.iter().map(|p| p.layer).take(1).collect(),
        };
        Ok((dictionaries, layers))
    }
}

/// The threshold that was learnt beside a TopK autoencoder of this program.
fn threshold(folder: &Path) -> Option<f32> {
    let text = prompt::read_text(&folder.join("cfg.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let ours = config.get("metadata")?.get("meden")?;
    // the factor of scaled inputs was folded into the weights, which leaves latents as they are
    ours.get("threshold").and_then(serde_json::Value::as_f64).map(|t| t as f32)
}
