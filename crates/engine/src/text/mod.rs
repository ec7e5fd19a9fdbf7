//! Text to token ids and back, in the order of the data: a chat [`template`](ChatTemplate) makes a prompt of
//! messages, a [`Tokenizer`] ids of the prompt, a [`Sampler`] the next id of logits, a [`StreamDecoder`] text of
//! ids, and [`StopStrings`] decide how much of it is shown.

mod error;
mod jinja;
mod logits;
mod python_json;
mod sampling;
mod shield;
mod stop;
mod stream;
mod template;
mod tokenizer;

pub use error::TextError;
pub use sampling::{Sampled, Sampler, SamplingConfig};
pub use shield::Prompt;
pub use stop::StopStrings;
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
