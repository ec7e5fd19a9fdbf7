//! A steering for verbs that answer.

use std::path::{Path, PathBuf};

use meden_engine::{Session, SessionOptions};
use meden_lens::steer::{SteerHook, Steering, Toward};

use crate::exit::usage;

/// Flags that steer an answer.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Steering")]
pub struct SteerArgs {
    /// A steering file (`meden steer fit`), with a strength behind a colon: above 0 towards the text, below 0 towards
    /// memory, as in spare.safetensors:-1.5
    #[arg(long, value_name = "FILE[:X]")]
    steer: Option<String>,
    /// Let a press evict the edited token as it would any other
    #[arg(long, requires = "steer")]
    steer_unprotected: bool,
}

/// A steering that was asked for.
pub struct Asked {
    path: PathBuf,
    steering: Steering,
    toward: Toward,
    /// Not below 0.
    strength: f32,
}

impl SteerArgs {
    /// Reads the file; `None` where no steering was asked for. A policy that would evict the edited token is refused
    /// unless that was asked for.
    pub fn read(&self, options: &SessionOptions) -> anyhow::Result<Option<Asked>> {
        let Some(asked) = self.steer.as_deref().map(Asked::open).transpose()? else { return Ok(None) };
        let evicts = options.policy.as_ref().is_some_and(|policy| policy.recents == 0);
        if evicts && !self.steer_unprotected {
            return Err(usage(
                "--steer: with --recents 0 the press may evict the edited token, and the edit with it; \
                 use --recents 1 or more, or --steer-unprotected",
            ));
        }
        Ok(Some(asked))
    }
}

impl Asked {
    /// Reads `FILE` or `FILE:X`.
    pub fn open(text: &str) -> anyhow::Result<Asked> {
        let (path, signed) = match text.rsplit_once(':').map(|(path, number)| (path, number.parse::<f32>())) {
            Some((path, Ok(number))) => (path, Some(number)),
            _ => (text, None),
        };
        let steering = Steering::open(Path::new(path))?;
        let signed = signed.unwrap_or(steering.strength);
        if !signed.is_finite() {
            return Err(usage(format!("--steer: a strength of {signed}; a finite number")));
        }
        let toward = if signed < 0.0 { Toward::Memory } else { Toward::Context };
        Ok(Asked { path: path.into(), steering, toward, strength: signed.abs() })
    }

    /// What edits the last of the next `prompt` tokens of a session, and what is written after them. Refuses a model
    /// that the file was not made for.
    pub fn hook(&self, session: &Session, prompt: usize) -> anyhow::Result<SteerHook<'_>> {
        self.steering.check(session.model(), &self.path)?;
        Ok(SteerHook::new(&self.steering, (self.toward, self.strength), session, prompt))
    }
}
