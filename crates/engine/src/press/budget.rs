//! How much may stay: a share, a number of tokens, or bytes.
//!
//! A budget means the whole cache: B tokens are B for each full-attention layer on average, what skipped layers hold
//! included. Sliding-window layers bound themselves and are outside of it (bytes count them).

use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// The written forms are `25%` (kept share of the tokens seen), `512` (tokens), `8MiB` (bytes), and `press` for presses
/// that decide by themselves how much stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// Share of the tokens seen that is kept, in (0, 1].
    Ratio(f64),
    /// Tokens a layer, on average over full-attention layers.
    Tokens(usize),
    /// Bytes of the whole cache, metadata included.
    Bytes(u64),
    /// The press decides (a threshold, a choice of heads).
    Press,
}

/// What happens to a skipped layer that holds more than the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipOverflow {
    /// It keeps its first and its newest tokens, as many as the budget: the cache stays bounded.
    #[default]
    Window,
    /// It grows, as in the paper; reported as unbounded.
    Grow,
}

impl std::str::FromStr for SkipOverflow {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "window" => Ok(SkipOverflow::Window),
            "grow" => Ok(SkipOverflow::Grow),
            _ => Err(EngineError::Setting {
                field: "skip overflow",
                value: text.to_string(),
                allowed: "window (bounded, the default) or grow (the paper's)".to_string(),
            }),
        }
    }
}

impl std::str::FromStr for Budget {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let bad = || {
            EngineError::Setting {
            field: "KV budget",
            value: text.to_string(),
            allowed: "a share such as 25%, a number of tokens such as 512, bytes such as 8MiB, or `press` for a press that decides by itself".to_string(),
        }
        };
        let trimmed = text.trim();
        if trimmed == "press" {
            return Ok(Budget::Press);
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            let share = percent.trim().parse::<f64>().map_err(|_| bad())? / 100.0;
            return if share > 0.0 && share <= 1.0 { Ok(Budget::Ratio(share)) } else { Err(bad()) };
        }
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" => {
                let tokens = number.parse::<usize>().map_err(|_| bad())?;
                return if tokens > 0 { Ok(Budget::Tokens(tokens)) } else { Err(bad()) };
            }
            "b" => 1.0,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            _ => return Err(bad()),
        };
        let bytes = number.parse::<f64>().map_err(|_| bad())? * factor;
        if (1.0..1e18).contains(&bytes) { Ok(Budget::Bytes(bytes as u64)) } else { Err(bad()) }
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Budget::Ratio(share) => write!(f, "{}%", (share * 1e8).round() / 1e6),
            Budget::Tokens(tokens) => write!(f, "{tokens}"),
            Budget::Press => f.write_str("press"),
            Budget::Bytes(bytes) if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            Budget::Bytes(bytes) if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            Budget::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

crate::written::as_string!(Budget);

/// Slots kept of `n` when the share `ratio` is removed: `max(1, n - floor(n * ratio))`, guarded against the float
/// that turns 1000 * (1 - 0.9) into 99.
pub fn keep_of(n: usize, ratio: f64) -> usize {
    if n == 0 {
        return 0;
    }
    (n - (n as f64 * ratio + 1e-9).floor() as usize).max(1)
}

/// kvpress's rounding, `int(n * (1 - ratio))`, for parity with its reference values only.
pub fn keep_of_kvpress(n: usize, ratio: f64) -> usize {
    (n as f64 * (1.0 - ratio)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_read_and_print_their_written_forms() {
        for (text, budget) in [
            ("25%", Budget::Ratio(0.25)),
            ("512", Budget::Tokens(512)),
            ("8MiB", Budget::Bytes(8 << 20)),
            ("100%", Budget::Ratio(1.0)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), budget);
            assert_eq!(budget.to_string(), text);
        }
        assert_eq!("1.5 mib".parse::<Budget>().unwrap(), Budget::Bytes(3 << 19));
        for bad in ["", "0", "0%", "101%", "-3", "8XB", "MiB", "nan%", "1e400MiB"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_float_trap_of_published_code_is_closed() {
        assert_eq!(keep_of(1000, 0.9), 100);
        assert_eq!(keep_of(10, 0.9), 1);
        assert_eq!(keep_of_kvpress(1000, 0.9), 99);
        assert_eq!(keep_of(3, 0.99), 1);
        assert_eq!(keep_of(0, 0.5), 0);
        assert_eq!(keep_of(7, 0.0), 7);
    }
}
