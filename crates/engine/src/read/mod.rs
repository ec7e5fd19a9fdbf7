//! What a decoded token reads of its cache: all of it, or the pages that can matter.
//!
//! A press decides what is kept; a read policy decides, at each token anew, what of it is read. Nothing is lost: what
//! this token passes over the next one may read. Memory stays as it is, time and traffic fall.

pub mod quest;
mod reader;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::config::Config;
use quest::Quest;
pub(crate) use reader::Reader;

/// How a session reads. Written `quest:1024` on the command line, `{"kind": "quest", "budget": 1024}` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadPolicy {
    /// The pages of largest bound, within a budget.
    Quest(Quest),
}

impl ReadPolicy {
    /// Refuses what this model cannot carry out.
    pub(crate) fn check(&self, config: &Config) -> Result<(), EngineError> {
        let ReadPolicy::Quest(quest) = self;
        let refuse = |field, value: usize, allowed: String| {
            Err(EngineError::Setting { field, value: value.to_string(), allowed })
        };
        if quest.budget == 0 {
            return refuse("read budget", 0, "at least 1 token a head, as in quest:1024".to_string());
        }
        if quest.min_pages == 0 {
            return refuse("min_pages of the read policy", 0, "at least 1 page, the newest".to_string());
        }
        match quest.skip_layers.iter().find(|&&layer| layer >= config.layers) {
            Some(&layer) => refuse(
                "layer in skip_layers of the read policy",
                layer,
                format!("this model has layers 0 to {}", config.layers.saturating_sub(1)),
            ),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for ReadPolicy {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<ReadPolicy, EngineError> {
        let bad = |why: &str| EngineError::Setting {
            field: "read policy",
            value: text.to_string(),
            allowed: format!("quest:TOKENS, as in quest:1024, or JSON with parameters{why}"),
        };
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).map_err(|error| bad(&format!(" ({error})")));
        }
        match text.trim().strip_prefix("quest:").map(str::parse::<usize>) {
            Some(Ok(budget)) if budget > 0 => Ok(ReadPolicy::Quest(Quest::new(budget))),
            _ => Err(bad("")),
        }
    }
}

impl std::fmt::Display for ReadPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ReadPolicy::Quest(quest) = self;
        write!(f, "quest:{}", quest.budget)
    }
}

/// What decoded tokens have read of their cache so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadStats {
    /// Tokens decoded under the policy.
    pub tokens: u64,
    /// Bytes of keys, values and bounds they read, over all layers.
    pub bytes: u64,
    /// Bytes that reading everything would have taken.
    pub dense_bytes: u64,
    /// `bytes / dense_bytes`; absent before the first such token.
    pub share: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_written_short_or_as_json() {
        let quest = |text: &str| match text.parse() {
            Ok(ReadPolicy::Quest(quest)) => quest,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(quest("quest:1024"), Quest { budget: 1024, skip_layers: vec![0, 1], min_pages: 3 });
        let json = r#"{"kind": "quest", "budget": 64, "skip_layers": []}"#;
        assert_eq!(quest(json), Quest { budget: 64, skip_layers: vec![], min_pages: 3 });
        assert_eq!(ReadPolicy::Quest(quest("quest:7")).to_string(), "quest:7");
        for bad in ["quest", "quest:0", "quest:-1", "all", r#"{"kind": "quest", "budgets": 3}"#] {
            let error = bad.parse::<ReadPolicy>().expect_err(bad).to_string();
            assert!(error.contains("quest:1024"), "{error}");
        }
    }
}
