//! Which tokens of a prompt are looked at.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LensError;

/// Positions of a prompt: `all`, `last`, `none`, or numbers and ranges with commas (`0,4-9`); negative numbers count
/// from the end. Counted from the prompt's first token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Positions {
    /// Every token.
    All,
    /// The last token: the one that predicts what comes next.
    Last,
    /// No token: only what is generated.
    None,
    /// Some, as they were written.
    List(Vec<Span>),
}

/// A run of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// One; negative from the end.
    One(i64),
    /// First and last, both included.
    Range(usize, usize),
}

impl Positions {
    /// One position; negative from the end.
    pub fn one(position: i64) -> Positions {
        Positions::List(vec![Span::One(position)])
    }

    /// Ascending positions in a prompt of `tokens` tokens.
    ///
    /// # Errors
    /// A position that the prompt does not have.
    pub fn resolve(&self, tokens: usize) -> Result<Vec<usize>, LensError> {
        let spans = match self {
            Positions::All => return Ok((0..tokens).collect()),
            Positions::Last => return Ok((tokens.saturating_sub(1)..tokens).collect()),
            Positions::None => return Ok(Vec::new()),
            Positions::List(spans) => spans,
        };
        let mut all = Vec::new();
        for span in spans {
            let (from, to) = match *span {
                Span::One(at) if at < 0 => {
                    let back = usize::try_from(-at).unwrap_or(usize::MAX);
                    let from = tokens.checked_sub(back).ok_or_else(|| beyond(at, tokens))?;
                    (from, from)
                }
                Span::One(at) => (at as usize, at as usize),
                Span::Range(from, to) => (from, to),
            };
            if to >= tokens {
                return Err(beyond(to, tokens));
            }
            all.extend(from..=to);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// How many positions of a prompt of `tokens` tokens are meant, without listing them.
    ///
    /// # Errors
    /// As [`resolve`](Positions::resolve).
    pub fn count(&self, tokens: usize) -> Result<usize, LensError> {
        match self {
            Positions::All => Ok(tokens),
            Positions::Last => Ok(tokens.min(1)),
            _ => Ok(self.resolve(tokens)?.len()),
        }
    }
}

fn beyond(at: impl ToString, tokens: usize) -> LensError {
    LensError::setting("positions", at, format!("the prompt has {tokens} tokens, 0 to {}", tokens.saturating_sub(1)))
}

impl std::str::FromStr for Positions {
    type Err = LensError;
    fn from_str(text: &str) -> Result<Positions, LensError> {
        match text.trim() {
            "all" => return Ok(Positions::All),
            "last" => return Ok(Positions::Last),
            "none" => return Ok(Positions::None),
            _ => {}
        }
        let wrong = || LensError::setting("positions", text, "write all, last, none, or numbers as in 0,4-9,-1");
        let span = |part: &str| {
            let part = part.trim();
            if let Ok(number) = part.parse::<i64>() {
                return Ok(Span::One(number));
            }
            let (from, to) = part.split_once('-').ok_or_else(wrong)?;
            let (from, to) = (from.trim().parse().map_err(|_| wrong())?, to.trim().parse().map_err(|_| wrong())?);
            if from > to { Err(wrong()) } else { Ok(Span::Range(from, to)) }
        };
        text.split(',').map(span).collect::<Result<_, _>>().map(Positions::List)
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Positions::All => f.write_str("all"),
            Positions::Last => f.write_str("last"),
            Positions::None => f.write_str("none"),
            Positions::List(spans) => {
                for (number, span) in spans.iter().enumerate() {
                    f.write_str(if number > 0 { "," } else { "" })?;
                    match span {
                        Span::One(at) => write!(f, "{at}")?,
                        Span::Range(from, to) => write!(f, "{from}-{to}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl TryFrom<String> for Positions {
    type Error = LensError;
    fn try_from(text: String) -> Result<Positions, LensError> {
        text.parse()
    }
}

impl From<Positions> for String {
    fn from(positions: Positions) -> String {
        positions.to_string()
    }
}
