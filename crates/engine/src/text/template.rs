//! Chat templates: messages to the prompt that a model was trained on.
//!
//! A template is a Jinja program inside a model file, so it runs like a stranger's: without files or other templates,
//! with a bound on its work (which counts bytes produced as well as steps), on its output and on its depth. The
//! environment is that of the transformers library: `trim_blocks`, `lstrip_blocks`, Python's methods on strings and
//! dictionaries, `raise_exception`, a `tojson` that writes as Python does. `strftime_now` is not defined: the same
//! messages must give the same prompt tomorrow, and templates that ask for it fall back to a fixed date.

use meden_files::ModelFiles;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

use super::error::TextError;
use super::python_json;
use super::tokenizer::Tokenizer;

/// Longest template; the longest that are known have 20 kB.
const SOURCE_MAX: usize = 1 << 20;
/// Work that any template may do: 64 bytes produced or one step each. The wordiest take about 200 steps a message.
const FUEL: u64 = 100_000;
/// More of it for each message and for each byte in the messages.
const FUEL_A_MESSAGE: u64 = 5_000;
const FUEL_A_BYTE: u64 = 2;
/// Nested calls and loops.
const DEPTH: usize = 100;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: "system", "user", "assistant", or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A model's chat template, compiled.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
    bos: String,
    eos: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// The template of a model; `None` when its files have none. One that does not parse is an error.
    pub fn load(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TextError> {
        let Some(source) = files.chat_template() else { return Ok(None) };
        let text = |id: Option<u32>| id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
        let name = format!("of {}", files.path().display());
        ChatTemplate::new(&name, &source, &text(tokenizer.bos()), &text(tokenizer.eos())).map(Some)
    }

    /// A template from its source. `name` is for errors; `bos` and `eos` are the texts of these tokens.
    pub fn new(name: &str, source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, TextError> {
        if source.len() > SOURCE_MAX {
            let value = format!("{} bytes long", source.len());
            return Err(TextError::setting(&format!("chat template {name}"), value, "up to 1 MiB"));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failure(name, &e))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_recursion_limit(DEPTH);
        environment.set_unknown_method_callback(methods);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        let source = without_generation_tags(source);
        environment.add_template_owned(name.to_owned(), source).map_err(|e| failure(name, &e))?;
        Ok(ChatTemplate { environment, name: name.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The prompt of a conversation. With `add_generation_prompt` it ends where the model's answer begins.
    ///
    /// Encode it with special tokens parsed. A role or an order of turns that the template refuses is an error with
    /// the template's own words.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let fuel = FUEL + FUEL_A_MESSAGE * messages.len() as u64 + FUEL_A_BYTE * bytes as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template(&self.name).map_err(|e| failure(&self.name, &e))?;
        let turn = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        let values = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            // As the transformers library calls a template without tools and documents.
            tools => (),
            documents => (),
        };
        template.render(values).map_err(|e| failure(&self.name, &e))
    }
}

/// The engine's error with the template's name, the line, and what the template itself said.
fn failure(name: &str, error: &Error) -> TextError {
    let mut why = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            "it did far more work than messages of this length need; it may never end".to_owned()
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    if why.contains("strftime_now") {
        why += "; it asks for today's date, which is not given, so that the same messages give the same prompt";
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    TextError::Template { name: name.to_owned(), line: error.line().unwrap_or(0), why }
}

/// What a template says when it refuses the messages.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `value | tojson`, as transformers has it: Python's `json.dumps` with `ensure_ascii=False`.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "this value cannot be written as JSON").with_source(e))?;
    let style = python_json::Style { indent, sort: sort == Some(true), ascii: ascii == Some(true) };
    let text = python_json::write(&json, &style);
    // Every byte written takes a walk through the value, which the engine does not see.
    state.consume_fuel(text.len() as u64)?;
    Ok(text)
}

/// Python's methods on strings, lists and dictionaries.
fn methods(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The source without `{% generation %}` and `{% endgeneration %}`: they mark the assistant's words for training and
/// change nothing in the prompt, but no engine knows them without an extension. Lines and white space stay.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = &rest[before.len()..];
            break;
        };
        let word = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let known = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match known {
            Some(instead) => out.push_str(&format!("{{%{}%}}", inside.replace(word, instead))),
            None => out.push_str(&format!("{{%{inside}%}}")),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
