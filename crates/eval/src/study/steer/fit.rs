//! Edits out of collected rows: SpARE, its controls, and the simpler methods.

use std::collections::BTreeMap;

use meden_engine::Model;
use meden_lens::place::Place;
use meden_lens::sae::{Activation, Parts, Sae};
use meden_lens::steer::select::overlap;
use meden_lens::steer::{Bound, Edit, EditParts, Estimator, Latents, Mode, Rule, Selected, Selection, Steering, Where};
use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::collect::Collected;
use super::dense;
use crate::error::EvalError;

/// How latents that compete (TopK) are computed where only some are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// `max(p, 0)`, as the released code has it: hundreds of weakly active latents a row.
    #[default]
    Relu,
    /// Above the threshold that was learnt beside them (JumpReLU), about as many as were active in training.
    Threshold,
}

/// What edit is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// SpARE.
    Spare,
    /// Latents drawn at random among those that fire, as many on each side.
    RandomLatents,
    /// Latents chosen by labels in random order within each kind of demonstrations.
    ShuffledLabels,
    /// Only what SpARE takes out.
    SpareRemove,
    /// Only what SpARE brings in.
    SpareAdd,
    /// SpARE without looking at the row.
    SpareBlind,
    /// Difference of the mean rows, added.
    Means,
    /// The same with the row's length kept.
    MeansKeepNorm,
    /// The part along the difference is moved to the group's.
    Projection,
    /// The group's mean row takes the row's place.
    TaskVector,
    /// Difference of means times the inverse covariance within the groups, as long as the difference itself.
    Whitened,
    /// First principal component of the differences within facts, as repeng's control vectors have it.
    Principal,
    /// Spectral editing (SEA, arXiv 2405.09719), linear.
    Sea,
    /// The same behind a squared exponential.
    SeaExp,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 14] = [
        Method::Spare,
        Method::RandomLatents,
        Method::ShuffledLabels,
        Method::SpareRemove,
        Method::SpareAdd,
        Method::SpareBlind,
        Method::Means,
        Method::MeansKeepNorm,
        Method::Projection,
        Method::TaskVector,
        Method::Whitened,
        Method::Principal,
        Method::Sea,
        Method::SeaExp,
    ];

    /// The name in flags and tables.
    pub fn name(self) -> &'static str {
        match self {
            Method::Spare => "spare",
            Method::RandomLatents => "random-latents",
            Method::ShuffledLabels => "shuffled-labels",
            Method::SpareRemove => "spare-remove",
            Method::SpareAdd => "spare-add",
            Method::SpareBlind => "spare-blind",
            Method::Means => "means",
            Method::MeansKeepNorm => "means-keep-norm",
            Method::Projection => "projection",
            Method::TaskVector => "task-vector",
            Method::Whitened => "whitened",
            Method::Principal => "principal",
            Method::Sea => "sea",
            Method::SeaExp => "sea-exp",
        }
    }

    /// Whether it needs an autoencoder.
    pub fn needs_sae(self) -> bool {
        matches!(
            self,
            Method::Spare
                | Method::RandomLatents
                | Method::ShuffledLabels
                | Method::SpareRemove
                | Method::SpareAdd
                | Method::SpareBlind
        )
    }
}

impl std::str::FromStr for Method {
    type Err = EvalError;
    fn from_str(text: &str) -> Result<Method, EvalError> {
        Method::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| EvalError::Setting {
            field: "method",
            value: text.to_owned(),
            allowed: Method::ALL.map(Method::name).join(", "),
        })
    }
}

/// How edits are fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How many latents are chosen.
    pub rule: Rule,
    /// How information is estimated.
    #[serde(default)]
    pub estimator: Estimator,
    /// How strength enters.
    pub mode: Mode,
    /// How latents are computed.
    pub code: Code,
    /// As many rows of each source within each kind of demonstrations.
    pub balance: bool,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        let rule = Rule::Null { level: 0.05, draws: 200, most: 64 };
        Options { rule, estimator: Estimator::Binned, mode: Mode::Code, code: Code::Relu, balance: false, seed: 0 }
    }
}

/// What was fitted.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The steering.
    pub steering: Steering,
    /// What was selected, by layer, for edits of latents.
    pub selected: Vec<(usize, Selected)>,
    /// Rows of each source that it was fitted on: text, memory.
    pub rows: [usize; 2],
}

/// Autoencoders by layer, as they are used while fitting.
pub struct Dictionaries {
    by_layer: BTreeMap<usize, (Sae, Option<String>)>,
}

impl Dictionaries {
    /// Reads latents as `code` says; `threshold` is the one learnt beside a TopK autoencoder.
    ///
    /// # Errors
    /// Parts that do not fit; no threshold where one is needed.
    pub fn new(all: Vec<(usize, Parts, Option<f32>)>, code: Code, threads: usize) -> Result<Dictionaries, EvalError> {
        let mut by_layer = BTreeMap::new();
        for (layer, parts, threshold) in all {
            let competes = matches!(
                parts.activation,
                Activation::TopK { .. } | Activation::BatchTopK { .. } | Activation::GroupMax { .. }
            );
            let activation = match (competes, code, threshold) {
                (false, _, _) => parts.activation.clone(),
                (true, Code::Relu, _) => Activation::Relu,
                (true, Code::Threshold, Some(t)) => Activation::JumpRelu { threshold: vec![t; parts.width] },
                (true, Code::Threshold, None) => {
                    return Err(EvalError::Setting {
                        field: "code",
                        value: "threshold".into(),
                        allowed: "relu: the autoencoder's file holds no threshold".into(),
                    });
                }
            };
            let sha256 = parts.origin.sha256.clone();
            let sae = Sae::new(Parts { activation, ..parts }, threads).map_err(sae)?;
            by_layer.insert(layer, (sae, sha256));
        }
        Ok(Dictionaries { by_layer })
    }

    /// Layers that there is one for.
    pub fn layers(&self) -> Vec<usize> {
        self.by_layer.keys().copied().collect()
    }
}

/// Fits an edit of the layers on rows.
///
/// # Errors
/// Rows of one source only; a layer that was not collected or has no autoencoder; no latent that beats chance.
pub fn fit(
    model: &Model,
    rows: &Collected,
    (layers, dictionaries): (&[usize], &Dictionaries),
    (method, options): (Method, &Options),
) -> Result<Fitted, EvalError> {
    let labels = rows.labels();
    let context = labels.iter().filter(|y| **y).count();
    let counts = [context, labels.len() - context];
    if counts.contains(&0) {
        let why = format!("{} rows follow the text and {} memory; both are needed", counts[0], counts[1]);
        return Err(EvalError::Prompt { why });
    }
    let mut edits = BTreeMap::new();
    let (mut selected, mut hashes) = (Vec::new(), Vec::new());
    for &layer in layers {
        let missing = |what: &str| EvalError::Setting {
            field: "layer",
            value: layer.to_string(),
            allowed: format!("layers with {what}"),
        };
        let values = rows.layer(layer).ok_or_else(|| missing("collected activations"))?;
        let place = Place::new(meden_engine::Site::ResidPost, layer);
        let edit = if method.needs_sae() {
            let (sae, hash) = dictionaries.by_layer.get(&layer).ok_or_else(|| missing("an autoencoder"))?;
            let (edit, of) = latents(sae, values, (rows, &labels), (method, options))?;
            hashes.extend(hash.clone());
            selected.push((layer, of));
            edit
        } else {
            dense::edit(dense::Rows { values, d: rows.d, of: &rows.rows, labels: &labels }, method)?
        };
        edits.insert(place, edit);
    }
    let sae = if hashes.is_empty() { None } else { Some(hashes.join(" ")) };
    let note = format!(
        "{}, fitted on {} prompts that followed the text and {} that did not",
        method.name(),
        counts[0],
        counts[1]
    );
    let bound = Bound::of(model, sae);
    let steering = Steering { bound, edits, whereabouts: Where::LastPrompt, strength: 1.0, note };
    Ok(Fitted { steering, selected, rows: counts })
}

fn latents(
    sae_: &Sae,
    values: &[f32],
    (rows, labels): (&Collected, &[bool]),
    (method, options): (Method, &Options),
) -> Result<(Edit, Selected), EvalError> {
    let codes = sae_.encode(values).map_err(sae)?;
    let strata = rows.strata();
    let selection =
        Selection { codes: &codes, labels, strata: &strata, estimator: options.estimator, seed: options.seed };
    let mut selected = selection.choose(options.rule);
    match method {
        Method::ShuffledLabels => {
            // as many as the true labels give, chosen and aimed by labels that mean nothing
            let shuffled = shuffle(labels, &strata, options.seed ^ 0x5f);
            let count = selected.chosen.len();
            selected = Selection { labels: &shuffled, ..selection }.choose(Rule::Top { count });
        }
        Method::RandomLatents => {
            let mut rng = Rng::new(options.seed, 0xa11);
            let mut all = selection.rank();
            rng.shuffle(&mut all);
            let count = |context: bool| selected.chosen.iter().filter(|c| c.is_context() == context).count();
            let mut take = Vec::new();
            for context in [true, false] {
                let side = all.iter().filter(|c| c.difference != 0.0 && c.is_context() == context);
                take.extend(side.take(count(context)).copied());
            }
            selected.chosen = take;
        }
        _ => {}
    }
    if selected.chosen.is_empty() {
        let needed = selected.threshold.map_or(String::new(), |t| format!(" of more than {t:.4} nats"));
        let why = format!("no latent tells the sources apart with information{needed}; use --rule top:N or more facts");
        return Err(EvalError::Prompt { why });
    }
    let which: Vec<u32> = selected.chosen.iter().map(|c| c.latent).collect();
    let chosen = sae_.chosen(&which).map_err(sae)?;
    let parts = match method {
        Method::SpareRemove => EditParts::Remove,
        Method::SpareAdd => EditParts::Add,
        Method::SpareBlind => EditParts::Blind,
        _ => EditParts::Both,
    };
    Ok((Edit::Latents(Box::new(Latents::new(chosen, &selected, options.mode, parts))), selected))
}

fn shuffle(labels: &[bool], strata: &[u32], seed: u64) -> Vec<bool> {
    let mut out = labels.to_vec();
    let most = strata.iter().copied().max().unwrap_or(0);
    for stratum in 0..=most {
        let rows: Vec<usize> = (0..labels.len()).filter(|&r| strata[r] == stratum).collect();
        let mut of: Vec<bool> = rows.iter().map(|&r| labels[r]).collect();
        Rng::new(seed, u64::from(stratum)).shuffle(&mut of);
        rows.iter().zip(of).for_each(|(&r, y)| out[r] = y);
    }
    out
}

/// How much the choice depends on which facts were seen: the mean Jaccard index of the sets that random halves of the
/// answers choose, over `times` splits. `None` where no half chooses anything.
///
/// # Errors
/// What encoding refuses.
pub fn stability(
    rows: &Collected,
    (layer, dictionaries): (usize, &Dictionaries),
    (options, times): (&Options, usize),
) -> Result<Option<f64>, EvalError> {
    let (Some(values), Some((sae_, _))) = (rows.layer(layer), dictionaries.by_layer.get(&layer)) else {
        return Ok(None);
    };
    let mut clusters: Vec<u32> = rows.rows.iter().map(|r| r.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let mut found = Vec::new();
    for time in 0..times {
        Rng::new(options.seed, 0x57ab + time as u64).shuffle(&mut clusters);
        let half: std::collections::HashSet<u32> = clusters[..clusters.len() / 2].iter().copied().collect();
        let mut sets = Vec::new();
        for inside in [true, false] {
            let keep: Vec<usize> =
                (0..rows.rows.len()).filter(|&r| half.contains(&rows.rows[r].cluster) == inside).collect();
            let part: Vec<f32> =
                keep.iter().flat_map(|&r| values[r * rows.d..(r + 1) * rows.d].iter().copied()).collect();
            let codes = sae_.encode(&part).map_err(sae)?;
            let part = rows.only(&keep);
            let (labels, strata) = (part.labels(), part.strata());
            let selection = Selection {
                codes: &codes,
                labels: &labels,
                strata: &strata,
                estimator: options.estimator,
                seed: options.seed,
            };
            // a null at half the rows would measure its power rather than the choice
            let rule = match options.rule {
                Rule::Null { most, .. } | Rule::Rate { most, .. } => Rule::Top { count: most },
                other => other,
            };
            sets.push(selection.choose(rule));
        }
        found.push(overlap(&sets[0], &sets[1]));
    }
    Ok(if found.is_empty() { None } else { Some(found.iter().sum::<f64>() / found.len() as f64) })
}

/// How often the rule chooses a latent that is planted among those of a layer, over `times` of them; each fires on
/// `shares[0]` of the rows that follow the text and on `shares[1]` of the others. `None` for a layer without rows or
/// autoencoder.
///
/// # Errors
/// What encoding refuses.
pub fn power(
    rows: &Collected,
    (layer, dictionaries): (usize, &Dictionaries),
    options: &Options,
    (shares, times): ([f64; 2], usize),
) -> Result<Option<f64>, EvalError> {
    let (Some(values), Some((sae_, _))) = (rows.layer(layer), dictionaries.by_layer.get(&layer)) else {
        return Ok(None);
    };
    let codes = sae_.encode(values).map_err(sae)?;
    let (labels, strata) = (rows.labels(), rows.strata());
    let (estimator, seed) = (options.estimator, options.seed);
    let selection = Selection { codes: &codes, labels: &labels, strata: &strata, estimator, seed };
    Ok(Some(selection.power(options.rule, shares, times)))
}

fn sae(error: meden_lens::sae::SaeError) -> EvalError {
    EvalError::Prompt { why: error.to_string() }
}
