//! What a study is made with; kept in its folder, so that it goes on with the same or not at all.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the data.
    pub data: String,
    /// Model: the name it was given, and the fingerprint of its files.
    pub model: (String, String),
    /// Most facts of one answer.
    pub per_answer: usize,
    /// Sets of demonstrations.
    pub sets: usize,
    /// Demonstrations of a set.
    pub demonstrations: usize,
    /// Demonstrations for asking closed book.
    pub closed_book_demonstrations: usize,
    /// Weight of the probes' L1 penalty.
    pub lambda: f64,
    /// Whether the source is asked about too, with all that hangs on it; else only conflict.
    pub source: bool,
    /// Seeds of the paper's training; 0 to leave it out.
    pub paper_seeds: u64,
    /// Prompts of each source whose heads are attributed; 0 to leave it out.
    pub head_prompts: usize,
    /// Prompts that are steered; 0 to leave it out.
    pub steer_prompts: usize,
    /// Strengths of steering, in distances between the means.
    pub strengths: Vec<f64>,
    /// Bootstrap draws and shuffles of each interval.
    pub draws: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Settings {
    /// What is used unless said otherwise.
    pub fn new(data: &str, model: (String, String)) -> Settings {
        Settings {
            data: data.to_owned(),
            model,
            per_answer: 4,
            sets: 3,
            demonstrations: 3,
            closed_book_demonstrations: 6,
            lambda: 3e-4,
            source: true,
            paper_seeds: 20,
            head_prompts: 40,
            steer_prompts: 120,
            strengths: vec![0.0, 1.0, 2.0, 4.0, -1.0, -2.0, -4.0],
            draws: 1000,
            seed: 1,
        }
    }

    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// The first of them.
    pub fn check(&self) -> Result<(), EvalError> {
        let refuse =
            |field, value: String, allowed: &str| Err(EvalError::Setting { field, value, allowed: allowed.to_owned() });
        for (field, value) in [
            ("facts of one answer", self.per_answer),
            ("sets of demonstrations", self.sets),
            ("demonstrations", self.demonstrations),
            ("demonstrations", self.closed_book_demonstrations),
        ] {
            if value == 0 {
                return refuse(field, "0".to_owned(), "1 and more");
            }
        }
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            return refuse("lambda", self.lambda.to_string(), "0 and more");
        }
        if self.draws < 100 {
            return refuse("draws", self.draws.to_string(), "100 and more: fewer give no interval");
        }
        if self.strengths.iter().any(|s| !s.is_finite()) || !self.strengths.contains(&0.0) {
            return refuse("strengths", format!("{:?}", self.strengths), "finite numbers, 0 among them");
        }
        Ok(())
    }
}
