//! A press with its budget and its moments: everything a user says about compression, in one place.

use serde::{Deserialize, Serialize};

use super::PressSpec;
use super::budget::{Budget, SkipOverflow};
use super::select::Protect;
use crate::error::EngineError;

/// First tokens protected when nothing else is said.
pub const DEFAULT_SINKS: usize = 4;
/// Newest tokens protected when nothing else is said.
pub const DEFAULT_RECENTS: usize = 64;

/// When a press acts. Written as a comma list: `prefill_end`, `prefill_chunk:256`, `decode_every:32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    /// What happens during the first prefill.
    pub prefill: PrefillSchedule,
    /// Act when a layer has grown this far beyond its budget after the prefill.
    pub decode_every: Option<usize>,
}

/// What happens during the first prefill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillSchedule {
    /// Nothing: the first tokens count as decoding.
    None,
    /// One compression, each layer right after its last chunk.
    End,
    /// A compression after every chunk of so many tokens, so that no layer ever holds more than its budget plus one chunk.
    Chunk(usize),
}

impl Default for Schedule {
    /// Bounded all the way: `prefill_chunk:256,decode_every:32`.
    fn default() -> Self {
        Schedule { prefill: PrefillSchedule::Chunk(256), decode_every: Some(32) }
    }
}

impl Schedule {
    /// One compression at the end of the prefill.
    pub fn prefill_end() -> Schedule {
        Schedule { prefill: PrefillSchedule::End, decode_every: None }
    }

    /// A compression whenever a layer has grown `n` beyond its budget, from the first token on.
    pub fn decode_every(n: usize) -> Schedule {
        Schedule { prefill: PrefillSchedule::None, decode_every: Some(n) }
    }

    /// A compression after each chunk of `n` tokens of the prefill.
    pub fn prefill_chunk(n: usize) -> Schedule {
        Schedule { prefill: PrefillSchedule::Chunk(n), decode_every: None }
    }
}

impl std::str::FromStr for Schedule {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let bad = || {
            EngineError::Setting {
            field: "press schedule",
            value: text.to_string(),
            allowed: "prefill_end, prefill_chunk:TOKENS, decode_every:TOKENS, or one of the first two with the last, as in prefill_chunk:256,decode_every:32".to_string(),
        }
        };
        let count = |n: &str| n.parse::<usize>().ok().filter(|&n| n > 0).ok_or_else(bad);
        let mut schedule = Schedule { prefill: PrefillSchedule::None, decode_every: None };
        for part in text.split(',').map(str::trim) {
            let prefill = match part.split_once(':') {
                None if part == "prefill_end" => PrefillSchedule::End,
                Some(("prefill_chunk", n)) => PrefillSchedule::Chunk(count(n)?),
                Some(("decode_every", n)) if schedule.decode_every.is_none() => {
                    schedule.decode_every = Some(count(n)?);
                    continue;
                }
                _ => return Err(bad()),
            };
            if schedule.prefill != PrefillSchedule::None {
                return Err(bad());
            }
            schedule.prefill = prefill;
        }
        Ok(schedule)
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefill = match self.prefill {
            PrefillSchedule::None => None,
            PrefillSchedule::End => Some("prefill_end".to_string()),
            PrefillSchedule::Chunk(n) => Some(format!("prefill_chunk:{n}")),
        };
        let decode = self.decode_every.map(|n| format!("decode_every:{n}"));
        f.write_str(&prefill.into_iter().chain(decode).collect::<Vec<_>>().join(","))
    }
}

crate::written::as_string!(Schedule);

/// How a share becomes a number of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// `max(1, n - floor(n * ratio))`, and budgets mean the whole cache.
    #[default]
    Meden,
    /// `int(n * (1 - ratio))` in each pressed layer, skipped layers on top: parity with kvpress, for reference values.
    Kvpress,
}

/// Press, budget and schedule. Written as JSON in files, as separate flags on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Policy {
    /// The rule.
    pub press: PressSpec,
    /// How much stays.
    pub budget: Budget,
    /// When it acts; nothing said means at every moment, or once after the prefill for presses that can only do that.
    pub schedule: Schedule,
    /// Layers that the press leaves alone; nothing said means the press's own choice (`[0, 1]` for the norm presses and
    /// their random control, as in the paper; none otherwise).
    pub skip_layers: Option<Vec<usize>>,
    /// What happens to a skipped layer that outgrows the budget.
    pub skip_overflow: SkipOverflow,
    /// First tokens that always stay.
    pub sinks: usize,
    /// Newest tokens that always stay.
    pub recents: usize,
    /// How a share becomes a number.
    pub rounding: Rounding,
}

/// A policy as it is written: what is left out has a default, some of them the press's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    press: PressSpec,
    budget: Option<Budget>,
    schedule: Option<Schedule>,
    skip_layers: Option<Vec<usize>>,
    #[serde(default)]
    skip_overflow: SkipOverflow,
    #[serde(default = "default_sinks")]
    sinks: usize,
    #[serde(default = "default_recents")]
    recents: usize,
    #[serde(default)]
    rounding: Rounding,
}

impl TryFrom<Written> for Policy {
    type Error = EngineError;
    fn try_from(written: Written) -> Result<Self, EngineError> {
        let own = written.press.build()?.own_budget().then_some(Budget::Press);
        let budget = written.budget.or(own).ok_or_else(|| EngineError::Setting {
            field: "policy",
            value: written.press.to_string(),
            allowed: "a policy with a budget, such as {\"press\": …, \"budget\": \"25%\"}".into(),
        })?;
        let usual = Policy::new(written.press, budget);
        Ok(Policy {
            schedule: written.schedule.unwrap_or(usual.schedule),
            skip_layers: written.skip_layers,
            skip_overflow: written.skip_overflow,
            sinks: written.sinks,
            recents: written.recents,
            rounding: written.rounding,
            ..usual
        })
    }
}

fn default_sinks() -> usize {
    DEFAULT_SINKS
}

fn default_recents() -> usize {
    DEFAULT_RECENTS
}

impl Policy {
    /// A policy with the product's defaults: bounded at every moment (where the press can), 4 sinks and 64 recents
    /// protected.
    pub fn new(press: PressSpec, budget: Budget) -> Policy {
        let once = press.build().is_ok_and(|p| p.only_at_prefill_end().is_some());
        Policy {
            press,
            budget,
            schedule: if once { Schedule::prefill_end() } else { Schedule::default() },
            skip_layers: None,
            skip_overflow: SkipOverflow::default(),
            sinks: DEFAULT_SINKS,
            recents: DEFAULT_RECENTS,
            rounding: Rounding::default(),
        }
    }

    /// Layers that are left alone in a model of `layers` layers.
    pub fn skipped(&self) -> Vec<usize> {
        let all_alike = matches!(self.press, PressSpec::KeyRerotation(_) | PressSpec::PerLayer(_));
        match (&self.skip_layers, self.press.scorer()) {
            (Some(layers), _) => layers.clone(),
            (None, PressSpec::Knorm(_) | PressSpec::KnormHigh(_) | PressSpec::Random(_)) if !all_alike => vec![0, 1],
            (None, _) => Vec::new(),
        }
    }

    /// What is protected. The newest token always survives, but for reference values that do not know that rule.
    pub fn protect(&self) -> Protect {
        let newest = usize::from(self.rounding == Rounding::Meden);
        Protect { sinks: self.sinks, recents: self.recents.max(newest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_read_and_print_their_written_forms() {
        for text in [
            "prefill_end",
            "prefill_chunk:256",
            "decode_every:32",
            "prefill_chunk:256,decode_every:32",
            "prefill_end,decode_every:1",
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "prefill",
            "prefill_chunk:0",
            "prefill_end,prefill_chunk:3",
            "decode_every:1,decode_every:2",
            "decode_every:x",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_in_json_needs_only_press_and_budget() {
        let policy: Policy = serde_json::from_str(r#"{"press": {"kind": "knorm"}, "budget": "25%"}"#).unwrap();
        assert_eq!(policy, Policy::new(PressSpec::knorm(), Budget::Ratio(0.25)));
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        assert!(
            serde_json::from_str::<Policy>(r#"{"press": {"kind": "knorm"}, "budget": "25%", "bugdet": 1}"#).is_err()
        );
    }
}
