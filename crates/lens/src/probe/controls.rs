//! What a probe has to beat before its figure means anything (section by section of arXiv 2410.16090's replications):
//! labels that say nothing, the words of the prompt, the length of the prompt. The direction of the means, which needs
//! no training, is shown beside them: it is no control but a reference.

use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::cross_fit::CrossFit;
use super::evaluate::{Judging, Scored, Shuffle};
use super::{Evaluation, Examples, Method, ProbeError, Rows};

/// A control, or the reference, with its figures on the same rows and folds as the probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// What was done.
    pub kind: Kind,
    /// Its figures.
    pub evaluation: Evaluation,
    /// Whether its AUROC lies inside the interval of shuffled labels, as a control's should. `None` for the reference.
    pub passes: Option<bool>,
}

/// The controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The same training on shuffled labels.
    ShuffledLabels,
    /// Words of the prompt, hashed.
    BagOfWords,
    /// The answer that the text names, hashed.
    AnswerIdentity,
    /// The prompt's number of tokens.
    PromptLength,
    /// The direction between the class means.
    DifferenceOfMeans,
}

impl Kind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Kind::ShuffledLabels => "shuffled labels",
            Kind::BagOfWords => "words of the prompt",
            Kind::AnswerIdentity => "the answer named",
            Kind::PromptLength => "prompt length",
            Kind::DifferenceOfMeans => "difference of means",
        }
    }
}

/// Buckets that words are hashed into.
const WORDS: usize = 1024;
/// Buckets of whole answers.
const ANSWERS: usize = 512;
/// Controls are fitted with a firmer penalty: their features are many and each is rare.
const LAMBDA: f64 = 1e-3;
/// Digits that a figure of three places needs.
const TOLERANCE: f64 = 1e-5;

/// Rows of hashed words: how often each bucket's words occur, as log(1 + count).
pub fn bag_of_words(texts: &[&str]) -> Result<Rows, ProbeError> {
    hashed(texts, WORDS, |text, put| {
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
            put(&word.to_lowercase());
        }
    })
}

/// Rows with a one in the bucket of the whole text.
pub fn identity(texts: &[&str]) -> Result<Rows, ProbeError> {
    hashed(texts, ANSWERS, |text, put| put(&text.trim().to_lowercase()))
}

fn hashed(texts: &[&str], buckets: usize, parts: impl Fn(&str, &mut dyn FnMut(&str))) -> Result<Rows, ProbeError> {
    let mut values = vec![0.0f32; texts.len() * buckets];
    for (text, row) in texts.iter().zip(values.chunks_exact_mut(buckets)) {
        parts(text, &mut |part| row[(fnv(part) % buckets as u64) as usize] += 1.0);
        row.iter_mut().for_each(|v| *v = v.ln_1p());
    }
    Rows::new(values, buckets)
}

/// FNV-1a in 64 bits: a fixed function of the bytes, the same on every machine.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Labels shuffled as `shuffle` says.
pub fn shuffled_labels(labels: &[bool], groups: &[u32], shuffle: Shuffle, seed: u64) -> Vec<bool> {
    let mut rng = Rng::new(seed, 1);
    let mut members: Vec<(u32, Vec<usize>)> = Vec::new();
    let mut place = std::collections::HashMap::new();
    for (row, &group) in groups.iter().enumerate() {
        let at = *place.entry(group).or_insert_with(|| {
            members.push((group, Vec::new()));
            members.len() - 1
        });
        members[at].1.push(row);
    }
    let mut drawn = labels.to_vec();
    match shuffle {
        Shuffle::Within => {
            for (_, rows) in &members {
                let mut own: Vec<bool> = rows.iter().map(|&r| labels[r]).collect();
                rng.shuffle(&mut own);
                rows.iter().zip(own).for_each(|(&r, l)| drawn[r] = l);
            }
        }
        Shuffle::Between => {
            let mut from: Vec<usize> = (0..members.len()).collect();
            rng.shuffle(&mut from);
            for ((_, rows), from) in members.iter().zip(from) {
                let other = &members[from].1;
                // a longer group goes round the shorter one's labels
                rows.iter().enumerate().for_each(|(i, &r)| drawn[r] = labels[other[i % other.len()]]);
            }
        }
    }
    drawn
}

/// What controls are run on: the probe's examples and folds, and what is known of the prompts.
pub struct Bench<'a> {
    /// Examples, with the activations.
    pub examples: &'a Examples,
    /// How rows are parted.
    pub plan: CrossFit<'a>,
    /// Strata of each row; those of the folds where empty.
    pub strata: &'a [u32],
    /// Rows that are judged; all where empty.
    pub judged: &'a [usize],
    /// How figures are made.
    pub judging: Judging,
    /// The probe's method.
    pub method: Method,
}

impl Bench<'_> {
    /// Other features for the same rows, through the same folds.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn scores(&self, rows: Rows, method: &Method) -> Result<Scored, ProbeError> {
        let examples = Examples::new(rows, self.examples.labels.clone(), self.examples.groups.clone())?;
        self.run(method, &examples)
    }

    fn run(&self, method: &Method, examples: &Examples) -> Result<Scored, ProbeError> {
        let mut scored = CrossFit { tolerance: TOLERANCE, ..self.plan }.run(method, examples)?;
        if !self.strata.is_empty() {
            scored.strata = self.strata.to_vec();
        }
        Ok(if self.judged.is_empty() { scored } else { scored.pick(self.judged) })
    }

    fn control(&self, kind: Kind, scored: &Scored) -> Result<Control, ProbeError> {
        let evaluation = scored.evaluate(&self.judging)?;
        let passes = (kind != Kind::DifferenceOfMeans).then(|| evaluation.is_chance());
        Ok(Control { kind, evaluation, passes })
    }

    /// The probe's training on labels that were shuffled before, judged by the shuffled labels.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn shuffled(&self) -> Result<Control, ProbeError> {
        let e = self.examples;
        let shuffle = self.judging.shuffle.unwrap_or_else(|| Shuffle::fitting(&e.labels, &e.groups));
        let labels = shuffled_labels(&e.labels, &e.groups, shuffle, self.judging.seed);
        let examples = Examples::new(e.rows.clone(), labels, e.groups.clone())?;
        let scored = self.run(&self.method, &examples)?;
        self.control(Kind::ShuffledLabels, &scored)
    }

    /// The direction between the class means.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn means(&self) -> Result<Control, ProbeError> {
        let scored = self.scores(self.examples.rows.clone(), &Method::DifferenceOfMeans)?;
        self.control(Kind::DifferenceOfMeans, &scored)
    }

    /// What the words of each prompt tell.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn words(&self, texts: &[&str]) -> Result<Control, ProbeError> {
        self.control(Kind::BagOfWords, &self.scores(bag_of_words(texts)?, &sparse())?)
    }

    /// What the answer that each prompt's text names tells.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn answers(&self, answers: &[&str]) -> Result<Control, ProbeError> {
        self.control(Kind::AnswerIdentity, &self.scores(identity(answers)?, &sparse())?)
    }

    /// What the number of tokens of each prompt tells.
    ///
    /// # Errors
    /// As [`CrossFit::run`].
    pub fn lengths(&self, tokens: &[usize]) -> Result<Control, ProbeError> {
        let rows = Rows::new(tokens.iter().map(|&t| t as f32).collect(), 1)?;
        self.control(Kind::PromptLength, &self.scores(rows, &Method::logistic(LAMBDA))?)
    }
}

/// Rare features keep their size.
fn sparse() -> Method {
    Method::Logistic { lambda: LAMBDA, penalise_bias: false, standardise: false }
}

#[cfg(test)]
mod tests {
    use super::super::split;
    use super::*;

    /// Groups of two prompts, one of each label; what differs is given.
    fn bench_of(rows: Rows, check: impl FnOnce(&Bench<'_>)) {
        let n = rows.len();
        let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        let groups: Vec<u32> = (0..n as u32).map(|i| i / 2).collect();
        let examples = Examples::new(rows, labels, groups).unwrap();
        let folds = split::folds(&examples.groups, 5, 0).unwrap();
        check(&Bench {
            examples: &examples,
            plan: CrossFit::new(&folds),
            strata: &[],
            judged: &[],
            judging: Judging::default(),
            method: Method::logistic(3e-4),
        });
    }

    fn noise(n: usize) -> Rows {
        let mut rng = Rng::new(8, 0);
        Rows::new((0..n * 5).map(|_| rng.normal() as f32).collect(), 5).unwrap()
    }

    #[test]
    fn a_word_that_gives_the_label_away_is_found() {
        bench_of(noise(200), |bench| {
            let told: Vec<String> = (0..200).map(|i| format!("fact {} {}", i / 2, ["odd", "even"][i % 2])).collect();
            let told: Vec<&str> = told.iter().map(String::as_str).collect();
            let control = bench.words(&told).unwrap();
            assert!(control.evaluation.auroc.value > 0.99 && control.passes == Some(false), "{control:?}");
            let silent: Vec<String> = (0..200).map(|i| format!("fact {} the same", i / 2)).collect();
            let silent: Vec<&str> = silent.iter().map(String::as_str).collect();
            let control = bench.words(&silent).unwrap();
            assert_eq!((control.evaluation.auroc.value, control.passes), (0.5, Some(true)));
            assert_eq!(bench.answers(&silent).unwrap().evaluation.auroc.value, 0.5);
        });
    }

    #[test]
    fn a_length_that_gives_the_label_away_is_found() {
        bench_of(noise(200), |bench| {
            let lengths: Vec<usize> = (0..200).map(|i| 30 + i % 7 + 3 * (i % 2)).collect();
            let control = bench.lengths(&lengths).unwrap();
            assert!(control.evaluation.auroc.value > 0.75 && control.passes == Some(false), "{control:?}");
        });
    }

    #[test]
    fn shuffled_labels_are_chance_also_where_the_true_ones_are_not() {
        let values = (0..400).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        bench_of(Rows::new(values, 1).unwrap(), |bench| {
            assert_eq!(bench.means().unwrap().evaluation.auroc.value, 1.0);
            let control = bench.shuffled().unwrap();
            assert_eq!(control.passes, Some(true), "{control:?}");
        });
    }

    #[test]
    fn shuffles_keep_what_they_should() {
        let (labels, groups) = ([true, false, true, true, false, false], [0, 0, 1, 1, 2, 2]);
        for seed in 0..20 {
            let within = shuffled_labels(&labels, &groups, Shuffle::Within, seed);
            assert!(within[2] && within[3] && !within[4] && !within[5] && within[0] != within[1]);
            let between = shuffled_labels(&labels, &groups, Shuffle::Between, seed);
            assert_eq!(between.iter().filter(|l| **l).count(), 3);
        }
    }
}
