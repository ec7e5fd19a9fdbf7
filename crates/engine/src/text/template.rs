//! Chat templates: messages to the prompt that a model was trained on.
//!
//! A template is a Jinja program inside a model file, so it runs like a stranger's: without files or other templates,
//! with a bound on its work (which counts bytes produced as well as steps) and on its depth, on a thread whose stack
//! is large enough for what the bound allows. The environment is that of the transformers library: `trim_blocks`,
//! `lstrip_blocks`, Python's methods on strings and dictionaries, `raise_exception`, a `tojson` that writes as Python
//! does. `strftime_now` is not defined: the same messages must give the same prompt tomorrow, and templates that ask
//! whether it is there fall back to a fixed date.

use meden_files::ModelFiles;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::error::TextError;
use super::jinja;
use super::tokenizer::Tokenizer;

/// Longest template in bytes; the longest that are known have 30,000.
const SOURCE_MAX: usize = 64 << 10;
/// Arithmetic operators in a template. Compiling a chain of them takes time that grows with the square of its length,
/// about a second at this one.
const OPERATORS_MAX: usize = 4_000;
/// Work that any template may do, in steps or in 64 bytes produced. The wordiest take about 200 a message.
const FUEL: u64 = 100_000;
/// More of it for each message and for each byte in the messages, and the most in all.
const FUEL_A_MESSAGE: u64 = 2_000;
const FUEL_A_BYTE: u64 = 1;
const FUEL_MAX: u64 = 8_000_000;
/// Stack for any template, for each byte of its source (an expression may open a level with every byte), and for each
/// unit of fuel (a list may go a level deeper with every ninth). Only what is touched becomes memory.
const STACK: usize = 8 << 20;
const STACK_A_BYTE: usize = 2 << 10;
const STACK_A_FUEL: usize = 64;

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
            return Err(TextError::setting(&format!("chat template {name}"), value, "up to 65536 bytes"));
        }
        let count = operators(source);
        if count > OPERATORS_MAX {
            let value = format!("{count} operators long");
            return Err(TextError::setting(&format!("chat template {name}"), value, "up to 4000 of + - * / % ~"));
        }
        let source = without_generation_tags(source);
        let stack = STACK + STACK_A_BYTE * source.len();
        let environment = on_large_stack(name, stack, || {
            let mut environment = jinja::environment()?;
            environment.add_template_owned(name.to_owned(), source)?;
            Ok(environment)
        })?;
        Ok(ChatTemplate { environment, name: name.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The prompt of a conversation. With `add_generation_prompt` it ends where the model's answer begins.
    ///
    /// Encode it with special tokens parsed. A role or an order of turns that the template refuses is an error with
    /// the template's own words.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let fuel = FUEL + FUEL_A_MESSAGE * messages.len() as u64 + FUEL_A_BYTE * bytes as u64;
        let fuel = fuel.min(FUEL_MAX);
        let stack = STACK + STACK_A_FUEL * fuel as usize;
        on_large_stack(&self.name, stack, || {
            let mut environment = self.environment.clone();
            environment.set_fuel(Some(fuel));
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
            environment.get_template(&self.name)?.render(values)
        })
    }
}

/// Runs the template engine where its recursion, which the template decides, cannot overflow the caller's stack.
fn on_large_stack<T: Send>(
    name: &str,
    stack: usize,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, TextError> {
    let fail = |why: String| TextError::Template { name: name.to_owned(), line: 0, why };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(stack);
        // The error may hold values as deep as the template made them, so it is read over there.
        let thread = thread.spawn_scoped(scope, || work().map_err(|e| failure(name, &e)));
        let thread = thread.map_err(|e| fail(format!("no thread with a stack of {stack} bytes: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(fail("the template engine panicked".to_owned())))
    })
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

/// How many characters of the source may be arithmetic operators: all that look like one and do not belong to the
/// braces of a tag. What stands in plain text is counted too; telling it apart would take the engine's own lexer.
fn operators(source: &str) -> usize {
    let bytes = source.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(b' ');
    let is_operator = |&i: &usize| {
        let (before, after) = (at(i.wrapping_sub(1)), at(i + 1));
        match bytes[i] {
            b'+' | b'*' | b'/' | b'~' => true,
            b'%' => before != b'{' && after != b'}',
            b'-' => {
                before != b'{'
                    && after != b'}'
                    && !(before == b'%' && at(i.wrapping_sub(2)) == b'{')
                    && !(after == b'%' && at(i + 2) == b'}')
            }
            _ => false,
        }
    };
    (0..bytes.len()).filter(is_operator).count()
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
