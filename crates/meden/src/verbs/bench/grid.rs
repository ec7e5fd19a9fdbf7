//! What is measured: the cases of a grid, and how a press is written in it.

use meden_engine::{Budget, EngineError, KvRotation, KvTypes, Policy, PressSpec, ReadPolicy, Schedule};
use serde::{Deserialize, Serialize};

use crate::args::ModelArgs;

/// A press and its budget as written on the command line: `none`, `knorm:25%`, `streaming_llm:2048`, `knorm:8MiB`.
#[derive(Clone, Debug, PartialEq)]
pub struct PressChoice {
    /// As it was written.
    pub name: String,
    /// Compression; `None` for a dense cache.
    pub choice: Option<(PressSpec, Budget)>,
}

impl std::str::FromStr for PressChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<PressChoice, String> {
        let name = text.trim().to_owned();
        if name == "none" {
            return Ok(PressChoice { name, choice: None });
        }
        let (press, budget) = name.rsplit_once(':').ok_or_else(|| {
            format!("`{name}` has no budget: write PRESS:BUDGET, as in knorm:25% or knorm:2048, or none")
        })?;
        let press: PressSpec = press.parse().map_err(|e| format!("{e}"))?;
        let budget: Budget = budget.parse().map_err(|e| format!("{e}"))?;
        Ok(PressChoice { name, choice: Some((press, budget)) })
    }
}

impl PressChoice {
    /// The policy with the product's other defaults.
    pub fn policy(&self, schedule: Option<Schedule>) -> Option<Policy> {
        let (press, budget) = self.choice.clone()?;
        let policy = Policy::new(press, budget);
        Some(Policy { schedule: schedule.unwrap_or(policy.schedule), ..policy })
    }
}

/// A setting of the grid that may be left out: `none`, or what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Maybe<T>(pub Option<T>);

impl<T: std::str::FromStr<Err = EngineError>> std::str::FromStr for Maybe<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Maybe<T>, String> {
        match text.trim() {
            "none" => Ok(Maybe(None)),
            other => other.parse().map(|value| Maybe(Some(value))).map_err(|e: EngineError| format!("{e}, or none")),
        }
    }
}

/// Whether tokens are read together or one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Read together.
    Prompt,
    /// One by one.
    Gen,
}

/// One case: everything that the process which measures it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// The model's files, and how they are loaded and run.
    pub model: ModelArgs,
    /// Press and budget as written.
    pub press: String,
    /// Compression.
    pub policy: Option<Policy>,
    /// Element type of the cache.
    pub kv: KvTypes,
    /// How keys and values are turned before they are stored.
    pub kv_rotate: Option<KvRotation>,
    /// What written tokens read of the cache.
    pub read: Option<ReadPolicy>,
    /// Most tokens read in one go.
    pub prefill_chunk: usize,
    /// What is timed.
    pub test: Test,
    /// Tokens timed.
    pub n: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sessions that go forward together, each with `n` tokens.
    pub batch: usize,
    /// Timed runs, after one that is not.
    pub repeat: usize,
}

impl Case {
    /// Tokens that a session sees.
    pub fn tokens(&self) -> usize {
        self.depth + self.n
    }

    /// Element type, and how it is turned and read: "q8", "q4 hadamard quest:1024".
    pub fn cache_name(&self) -> String {
        let rotate = self.kv_rotate.map(|r| format!(" {r}")).unwrap_or_default();
        let read = self.read.as_ref().map(|r| format!(" {r}")).unwrap_or_default();
        format!("{}{rotate}{read}", self.kv)
    }

    /// Its name in progress and errors: "prompt 512 @ 2048, knorm:25%, q8 hadamard".
    pub fn name(&self) -> String {
        let test = if self.test == Test::Prompt { "prompt" } else { "gen" };
        let depth = if self.depth > 0 { format!(" @ {}", self.depth) } else { String::new() };
        format!("{test} {}{depth}, {}, {}", self.n, self.press, self.cache_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_is_written_none() {
        assert_eq!("none".parse::<Maybe<KvRotation>>().unwrap().0, None);
        assert_eq!("hadamard".parse::<Maybe<KvRotation>>().unwrap().0, Some(KvRotation::Hadamard));
        assert_eq!("quest:64".parse::<Maybe<ReadPolicy>>().unwrap().0, Some("quest:64".parse().unwrap()));
        let error = "quest".parse::<Maybe<ReadPolicy>>().unwrap_err();
        assert!(error.contains("quest:1024") && error.contains("none"), "{error}");
    }

    #[test]
    fn presses_are_written_with_their_budget() {
        assert_eq!("none".parse::<PressChoice>().unwrap().policy(None), None);
        let policy = "knorm:25%".parse::<PressChoice>().unwrap().policy(None).unwrap();
        assert_eq!(policy.budget, Budget::Ratio(0.25));
        assert_eq!(policy.press.name(), "knorm");
        let schedule = Schedule::prefill_end();
        let json = r#"{"kind": "random", "seed": 3}:8MiB"#.parse::<PressChoice>().unwrap();
        assert_eq!(json.policy(Some(schedule)).unwrap().schedule, schedule);
        assert!("knorm".parse::<PressChoice>().unwrap_err().contains("knorm:25%"));
        assert!("knorm:0".parse::<PressChoice>().is_err());
        assert!("nothing:25%".parse::<PressChoice>().is_err());
    }
}
