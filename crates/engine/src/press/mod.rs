//! Presses: which cached keys are worth keeping.
//!
//! A press only scores: one number for each slot of a head, higher means keep. How many slots stay is a
//! [`budget`], when it happens a [`schedule`](crate::press::policy::Schedule), and sinks and
//! recent tokens are protected by flags in [`select`], never by special scores.

pub mod budget;
pub mod knorm;
pub mod knorm_high;
pub(crate) mod plan;
pub mod policy;
pub mod random;
pub mod select;
pub mod streaming_llm;

use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// What a press reads. The engine computes nothing that no press asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// L2 norms of the keys (kept at append; free).
    pub key_norms: bool,
    /// Cached keys.
    pub keys: bool,
    /// Cached values.
    pub values: bool,
    /// The last queries of the prefill, this many.
    pub recent_queries: usize,
    /// Attention mass received by each slot.
    pub attention_mass: bool,
    /// Hidden states that entered the attention block.
    pub hidden_states: bool,
}

/// Where and when a press acts.
#[derive(Clone, Copy, Debug)]
pub struct PressPoint {
    /// Layer.
    pub layer: usize,
    /// Key-value head.
    pub head: usize,
    /// Tokens seen by the session, this chunk included.
    pub seen: usize,
}

/// A rule that scores cached slots.
pub trait Press: Send + Sync {
    /// The registered name.
    fn name(&self) -> &'static str;
    /// What it reads.
    fn needs(&self) -> Needs;
    /// Score each slot of a head, higher is kept longer. `out` is `(slots)` long and all of it is overwritten.
    fn score(&self, at: PressPoint, head: &HeadCache, out: &mut [f32]) -> Result<(), EngineError>;
}

/// The registry: every press by name, with its parameters. Written `{"kind": "knorm"}` in files, `knorm` or the
/// same JSON on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PressSpec {
    /// Keep the keys of lowest L2 norm (arXiv 2406.11430).
    Knorm {},
    /// Keep the keys of highest L2 norm: a control, expected to be bad.
    KnormHigh {},
    /// Keep at random: a control.
    Random {
        /// Seed of the draws.
        #[serde(default)]
        seed: u64,
    },
    /// Keep the first tokens and the newest (arXiv 2309.17453).
    StreamingLlm {
        /// First tokens that are kept.
        #[serde(default = "streaming_llm::default_sinks")]
        n_sink: usize,
    },
}

/// A line of the registry for people.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PressInfo {
    /// Name on the command line.
    pub name: &'static str,
    /// One line: the rule.
    pub rule: &'static str,
    /// Where it is published.
    pub paper: &'static str,
}

impl PressSpec {
    /// Every press, for help texts and reports.
    pub const REGISTRY: [PressInfo; 4] = [
        PressInfo { name: "knorm", rule: "keep the keys of lowest L2 norm", paper: "arXiv 2406.11430" },
        PressInfo { name: "knorm_high", rule: "keep the keys of highest L2 norm (control)", paper: "arXiv 2406.11430" },
        PressInfo { name: "random", rule: "keep at random (control)", paper: "-" },
        PressInfo { name: "streaming_llm", rule: "keep the first tokens and the newest", paper: "arXiv 2309.17453" },
    ];

    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            PressSpec::Knorm {} => "knorm",
            PressSpec::KnormHigh {} => "knorm_high",
            PressSpec::Random { .. } => "random",
            PressSpec::StreamingLlm { .. } => "streaming_llm",
        }
    }

    /// The press itself.
    pub fn build(&self) -> Box<dyn Press> {
        match self {
            PressSpec::Knorm {} => Box::new(knorm::Knorm),
            PressSpec::KnormHigh {} => Box::new(knorm_high::KnormHigh),
            PressSpec::Random { seed } => Box::new(random::Random { seed: *seed }),
            PressSpec::StreamingLlm { n_sink } => Box::new(streaming_llm::StreamingLlm { n_sink: *n_sink }),
        }
    }
}

impl std::str::FromStr for PressSpec {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let text = text.trim();
        let json =
            if text.starts_with('{') { text.to_string() } else { serde_json::json!({ "kind": text }).to_string() };
        serde_json::from_str(&json).map_err(|error| {
            let names = PressSpec::REGISTRY.map(|p| p.name).join(", ");
            let reason = error.to_string();
            let reason = reason.split(" at line").next().unwrap_or_default().to_string();
            EngineError::Setting {
                field: "press",
                value: text.to_string(),
                allowed: format!("presses are {names}; parameters go in JSON such as {{\"kind\": \"streaming_llm\", \"n_sink\": 4}} ({reason})"),
            }
        })
    }
}

impl std::fmt::Display for PressSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PressSpec::Knorm {} | PressSpec::KnormHigh {} => f.write_str(self.name()),
            other => f.write_str(&serde_json::to_string(other).map_err(|_| std::fmt::Error)?),
        }
    }
}
