//! How large the key-value cache may become and what is thrown out of it.

use std::path::PathBuf;

use anyhow::Context;
use meden_engine::{
    Budget, KvRotation, KvTypes, Policy, PressSpec, ReadPolicy, Schedule, SessionOptions, SkipOverflow,
};

/// Flags of the cache and its press.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Keep the cache within a budget: tokens a layer (512), a share of the tokens read (25%), or bytes (8MiB)
    #[arg(long, value_name = "BUDGET")]
    pub kv_budget: Option<Budget>,
    /// What decides which tokens stay: a name (knorm is the default; `meden kv presses` lists all), a name with
    /// parameters such as snapkv(window_size=32) or adakv(snapkv), or JSON
    #[arg(long, value_name = "PRESS")]
    pub press: Option<PressSpec>,
    /// When the press acts [default: prefill_chunk:256,decode_every:32]
    #[arg(long, value_name = "WHEN")]
    pub schedule: Option<Schedule>,
    /// Layers that are left alone, as in 0,1, or none [default: what the press's paper says]
    #[arg(long, value_name = "LAYERS", value_parser = parse_layers)]
    pub skip_layers: Option<Layers>,
    /// A skipped layer that outgrows the budget keeps its ends (window), or grows without bound (grow)
    #[arg(long, value_name = "window|grow")]
    pub skip_overflow: Option<SkipOverflow>,
    /// First tokens that always stay [default: 4]
    #[arg(long, value_name = "N")]
    pub sinks: Option<usize>,
    /// Newest tokens that always stay [default: 64]
    #[arg(long, value_name = "N")]
    pub recents: Option<usize>,
    /// Take press, budget and schedule from a JSON file instead
    #[arg(long, value_name = "FILE", conflicts_with = "kv_budget")]
    pub policy: Option<PathBuf>,
    /// Element type of cached keys and values, or one for each, as in q8/q4; keys also in q4c, as in q4c/q8
    #[arg(long, default_value = "f16", value_name = "f32|f16|q8|q4|KEYS/VALUES")]
    pub kv: KvTypes,
    /// Turn keys and values before they are stored, so that q8 and q4 hold them better
    #[arg(long, value_name = "hadamard")]
    pub kv_rotate: Option<KvRotation>,
    /// Read only the pages of the cache that can matter to a written token, as in quest:1024 (tokens a head), or JSON
    #[arg(long, value_name = "quest:TOKENS")]
    pub read: Option<ReadPolicy>,
    /// Most tokens read in one go
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub prefill_chunk: usize,
}

/// A list of layer numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(pub Vec<usize>);

/// Layer numbers with commas, or `none`.
pub fn parse_layers(text: &str) -> Result<Layers, String> {
    if text.trim() == "none" {
        return Ok(Layers(Vec::new()));
    }
    let numbers = text.split(',').map(|part| part.trim().parse::<usize>());
    let numbers: Result<Vec<_>, _> = numbers.collect();
    numbers.map(Layers).map_err(|_| "write layer numbers with commas, as in 0,1, or none".to_owned())
}

impl CacheArgs {
    /// What a session is made with.
    pub fn session_options(&self) -> anyhow::Result<SessionOptions> {
        Ok(SessionOptions {
            kv_type: self.kv,
            kv_rotate: self.kv_rotate,
            policy: self.to_policy()?,
            prefill_chunk: self.prefill_chunk,
            read: self.read.clone(),
            ..SessionOptions::default()
        })
    }

    /// The budget: what was said, or the press's own where it decides by itself.
    fn budget(&self) -> anyhow::Result<Option<Budget>> {
        if self.kv_budget.is_some() {
            return Ok(self.kv_budget);
        }
        if let Some(press) = &self.press
            && press.build()?.own_budget()
        {
            return Ok(Some(Budget::Press));
        }
        match self.named() {
            Some(flag) => Err(crate::exit::failure(
                crate::exit::Exit::Usage,
                format!("{flag} needs --kv-budget: a share such as 25%, tokens such as 512, or bytes such as 8MiB"),
            )),
            None => Ok(None),
        }
    }

    /// The first flag that says something about a policy.
    fn named(&self) -> Option<&'static str> {
        let named = [
            ("--press", self.press.is_some()),
            ("--schedule", self.schedule.is_some()),
            ("--skip-layers", self.skip_layers.is_some()),
            ("--skip-overflow", self.skip_overflow.is_some()),
            ("--sinks", self.sinks.is_some()),
            ("--recents", self.recents.is_some()),
        ];
        named.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    /// The compression policy, `None` where no budget was given.
    pub fn to_policy(&self) -> anyhow::Result<Option<Policy>> {
        if let Some(path) = &self.policy {
            if let Some(flag) = self.named() {
                return Err(crate::exit::failure(
                    crate::exit::Exit::Usage,
                    format!("{flag} would be ignored beside --policy: write it into {}", path.display()),
                ));
            }
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{}: cannot read the policy file", path.display()))
                .map_err(|e| crate::exit::failure(crate::exit::Exit::BadFile, crate::exit::one_line(&e)))?;
            let policy = serde_json::from_str(&text).map_err(|e| {
                crate::exit::failure(
                    crate::exit::Exit::BadFile,
                    format!(
                        "{}: not a policy: {e}; write for example {{\"press\": {{\"kind\": \"knorm\"}}, \"budget\": \"25%\"}}",
                        path.display()
                    ),
                )
            })?;
            return Ok(Some(policy));
        }
        let Some(budget) = self.budget()? else {
            return Ok(None);
        };
        let press = self.press.clone().unwrap_or(PressSpec::knorm());
        let mut policy = Policy::new(press, budget);
        policy.schedule = self.schedule.unwrap_or(policy.schedule);
        policy.skip_layers = self.skip_layers.clone().map(|l| l.0);
        policy.skip_overflow = self.skip_overflow.unwrap_or(policy.skip_overflow);
        policy.sinks = self.sinks.unwrap_or(policy.sinks);
        policy.recents = self.recents.unwrap_or(policy.recents);
        Ok(Some(policy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_or_none() {
        assert_eq!(parse_layers("0, 1,12"), Ok(Layers(vec![0, 1, 12])));
        assert_eq!(parse_layers("none"), Ok(Layers(vec![])));
        assert!(parse_layers("0;1").is_err());
        assert!(parse_layers("").is_err());
    }
}
