//! Exit codes and the one line that explains them. The only place where errors of all crates meet.

use std::fmt;
use std::io;

use meden_engine::EngineError;
use meden_engine::export::ExportError;
use meden_engine::text::TextError;
use meden_eval::EvalError;
use meden_files::FileError;
use meden_files::quantize::QuantizeError;
use meden_files::source::SourceError;
use meden_lens::LensError;
use meden_lens::probe::ProbeError;
use meden_lens::sae::SaeError;
use meden_train::corpus::CorpusError;
use meden_train::{sae, vision};
use meden_vision::VisionError;

/// Why the program ends. The numbers are part of the interface and stand in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done.
    Ok = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// Flags, values or combinations that make no sense.
    Usage = 2,
    /// A file that cannot be read, is damaged, or holds a model that is not supported.
    BadFile = 3,
    /// A model that is not on this machine and could not be fetched.
    ModelUnavailable = 4,
    /// Not enough memory, or a KV budget that cannot be met.
    Memory = 5,
    /// More tokens than the model's context holds.
    Context = 6,
    /// Ctrl-C.
    Interrupted = 10,
}

impl Exit {
    /// The table of `meden --help`.
    pub const TABLE: &str = "Exit codes:
   0  done
   1  any other failure
   2  wrong usage
   3  a file that cannot be read or is not supported
   4  the model is not here and cannot be fetched
   5  not enough memory, or a KV budget that cannot be met
   6  more tokens than the model's context holds
  10  interrupted with Ctrl-C";

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Other => "other",
            Exit::Usage => "usage",
            Exit::BadFile => "bad_file",
            Exit::ModelUnavailable => "model_unavailable",
            Exit::Memory => "memory",
            Exit::Context => "context_exceeded",
            Exit::Interrupted => "interrupted",
        }
    }
}

/// An error that the binary itself finds, with its code.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// `what: why; fix`.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with its code, ready for `?`.
pub fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// Wrong usage: `what: why; fix`.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    failure(Exit::Usage, message)
}

/// Whether the reader of our output has gone away, which ends the program quietly.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// The code of an error, decided by the innermost library error that has one.
pub fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Other)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(e) = cause.downcast_ref::<Failure>() {
        return Some(e.exit);
    }
    if let Some(e) = cause.downcast_ref::<EngineError>() {
        return Some(of_engine(e));
    }
    if let Some(e) = cause.downcast_ref::<TextError>() {
        return Some(of_text(e));
    }
    if let Some(e) = cause.downcast_ref::<EvalError>() {
        return Some(match e {
            EvalError::Engine(e) => of_engine(e),
            EvalError::Text(e) => of_text(e),
            EvalError::Lens(e) => of_lens(e),
            EvalError::Probe(e) => of_probe(e),
            EvalError::Setting { .. }
            | EvalError::TooShort { .. }
            | EvalError::TextTooShort { .. }
            | EvalError::Prompt { .. } => Exit::Usage,
            EvalError::Results { .. } | EvalError::Facts { .. } | EvalError::Items { .. } => Exit::BadFile,
            _ => Exit::Other,
        });
    }
    if let Some(e) = cause.downcast_ref::<LensError>() {
        return Some(of_lens(e));
    }
    if let Some(e) = cause.downcast_ref::<ProbeError>() {
        return Some(of_probe(e));
    }
    if let Some(e) = cause.downcast_ref::<SourceError>() {
        return Some(match e {
            SourceError::File(_) => Exit::BadFile,
            SourceError::BadHubName { .. } => Exit::Usage,
            _ => Exit::ModelUnavailable,
        });
    }
    if let Some(e) = cause.downcast_ref::<ExportError>() {
        return Some(match e {
            ExportError::Engine(e) => of_engine(e),
            ExportError::Text(e) => of_text(e),
        });
    }
    if let Some(e) = cause.downcast_ref::<QuantizeError>() {
        return Some(of_quantize(e));
    }
    of_training(cause).or_else(|| cause.downcast_ref::<FileError>().map(|_| Exit::BadFile))
}

/// Errors of autoencoders, corpora and image models.
fn of_training(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(e) = cause.downcast_ref::<SaeError>() {
        return Some(of_sae(e));
    }
    if let Some(e) = cause.downcast_ref::<sae::TrainError>() {
        return Some(match e {
            sae::TrainError::Lens(e) => of_lens(e),
            sae::TrainError::Sae(e) => of_sae(e),
            sae::TrainError::Engine(e) => of_engine(e),
            sae::TrainError::File(_) | sae::TrainError::Unfit { .. } => Exit::BadFile,
            sae::TrainError::Setting { .. } => Exit::Usage,
            sae::TrainError::Stopped { .. } => Exit::Interrupted,
            sae::TrainError::Kernel(_) | sae::TrainError::Diverged { .. } => Exit::Other,
        });
    }
    if let Some(e) = cause.downcast_ref::<CorpusError>() {
        return Some(match e {
            CorpusError::Package { .. } => Exit::ModelUnavailable,
            _ => Exit::BadFile,
        });
    }
    if let Some(e) = cause.downcast_ref::<vision::TrainError>() {
        return Some(match e {
            vision::TrainError::File(_) | vision::TrainError::State { .. } => Exit::BadFile,
            vision::TrainError::Vision(e) => of_vision(e),
            vision::TrainError::Setting { .. } => Exit::Usage,
            _ => Exit::Other,
        });
    }
    cause.downcast_ref::<VisionError>().map(of_vision)
}

fn of_lens(error: &LensError) -> Exit {
    match error {
        LensError::Engine(e) => of_engine(e),
        LensError::File(_) | LensError::Unfit { .. } => Exit::BadFile,
        LensError::Setting { .. } => Exit::Usage,
        LensError::NotFinite { .. } | LensError::TooLarge { .. } => Exit::Other,
    }
}

fn of_sae(error: &SaeError) -> Exit {
    match error {
        SaeError::Lens(e) => of_lens(e),
        SaeError::Engine(e) => of_engine(e),
        SaeError::Rows { .. } => Exit::Usage,
        SaeError::Kernel(_) => Exit::Other,
        _ => Exit::BadFile,
    }
}

fn of_vision(error: &VisionError) -> Exit {
    if matches!(error, VisionError::Input { .. }) { Exit::Usage } else { Exit::BadFile }
}

fn of_engine(error: &EngineError) -> Exit {
    match error {
        EngineError::File(_)
        | EngineError::Quantize { .. }
        | EngineError::Config { .. }
        | EngineError::TensorShape { .. }
        | EngineError::Snapshot { .. } => Exit::BadFile,
        EngineError::Setting { .. } | EngineError::NoTokens | EngineError::TokenId { .. } => Exit::Usage,
        EngineError::Press { .. } => Exit::Memory,
        EngineError::ContextExceeded { .. } => Exit::Context,
        EngineError::Cancelled { .. } | EngineError::LoadCancelled { .. } => Exit::Interrupted,
        _ => Exit::Other,
    }
}

fn of_probe(error: &ProbeError) -> Exit {
    match error {
        ProbeError::Engine(e) => of_engine(e),
        ProbeError::File(_) | ProbeError::BadFile { .. } => Exit::BadFile,
        ProbeError::NotConverged { .. } | ProbeError::NotFinite { .. } => Exit::Other,
        ProbeError::Count { .. }
        | ProbeError::Width { .. }
        | ProbeError::TooFew { .. }
        | ProbeError::Setting { .. }
        | ProbeError::OtherModel { .. } => Exit::Usage,
    }
}

fn of_quantize(error: &QuantizeError) -> Exit {
    match error {
        QuantizeError::Recipe { .. } | QuantizeError::Exists { .. } | QuantizeError::SameFile { .. } => Exit::Usage,
        QuantizeError::Cancelled { .. } => Exit::Interrupted,
        QuantizeError::File(_) | QuantizeError::NoName { .. } | QuantizeError::Tensor { .. } => Exit::BadFile,
    }
}

fn of_text(error: &TextError) -> Exit {
    match error {
        TextError::File(_)
        | TextError::NoTokenizer { .. }
        | TextError::Unsupported { .. }
        | TextError::Vocabulary { .. } => Exit::BadFile,
        TextError::Setting { .. } => Exit::Usage,
        _ => Exit::Other,
    }
}

/// The whole chain of causes on one line, without repeating what an outer message already contains.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn codes_stay_below_100_and_stand_in_the_table() {
        for exit in [
            Exit::Ok,
            Exit::Other,
            Exit::Usage,
            Exit::BadFile,
            Exit::ModelUnavailable,
            Exit::Memory,
            Exit::Context,
            Exit::Interrupted,
        ] {
            assert!((exit as u8) < 100);
            let number = format!("{:>4}  ", exit as u8);
            assert!(Exit::TABLE.lines().any(|l| l.starts_with(&number)), "{exit:?} is not in the table");
        }
    }

    #[test]
    fn library_errors_get_their_codes_through_any_context() {
        let error = Err::<(), _>(EngineError::ContextExceeded { needed: 9000, limit: 8192 });
        let error = error.context("reading the prompt").unwrap_err();
        assert_eq!(of(&error), Exit::Context);
        assert!(one_line(&error).contains("9000"));
        let stopped = anyhow::Error::new(EngineError::LoadCancelled { done: 1, total: 2 }).context("loading m.gguf");
        assert_eq!(of(&stopped), Exit::Interrupted);
        let pipe = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&pipe));
        assert_eq!(of(&pipe), Exit::Other);
    }

    #[test]
    fn a_message_is_one_line_and_says_nothing_twice() {
        let error = anyhow::anyhow!("first\n  second").context("outer: first\n  second");
        assert_eq!(one_line(&error), "outer: first second");
    }
}
