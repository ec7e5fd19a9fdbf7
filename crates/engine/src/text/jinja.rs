//! The Jinja environment of chat templates, and its limits.
//!
//! The engine's fuel counts steps and the bytes of strings, but a list that is repeated or nested takes a few bytes
//! and may stand for terabytes of text (a list of two lists of two lists …). So whatever turns a container into text
//! walks through it first, paying for every item: [`weigh`]. What is left uncovered is a template that concatenates
//! (`~`) or compares such a container itself.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, StringInput, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, escape_formatter, filters};

use super::python_json;

/// Nested calls, loops, and containers in containers.
const DEPTH: usize = 100;
/// Digits that a width or precision in a format string may have.
const WIDTH_DIGITS: usize = 4;
/// Spaces a level of indented JSON.
const INDENT_MAX: usize = 16;

/// An environment like that of the transformers library, without templates.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH);
    environment.set_formatter(|out, state, value| {
        weigh(state, value)?;
        escape_formatter(out, state, value)
    });
    environment.set_unknown_method_callback(methods);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    environment.add_filter("join", join);
    environment.add_filter("string", string);
    environment.add_filter("format", format);
    environment.remove_filter("pprint");
    Ok(environment)
}

fn refuse<T>(why: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, why))
}

/// What a template says when it refuses the messages.
fn raise_exception(message: String) -> Result<Value, Error> {
    refuse(message)
}

/// Pays for every item of a container, of containers in it, and so on, before something walks through it unpaid.
fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    let mut open: Vec<Box<dyn Iterator<Item = Value>>> = vec![Box::new(std::iter::once(value.clone()))];
    while let Some(items) = open.last_mut() {
        let Some(item) = items.next() else {
            open.pop();
            continue;
        };
        let Some(object) = item.as_object() else {
            // The container's own cost; of a lone string the engine pays itself.
            if open.len() > 1 {
                state.consume_fuel(1 + item.as_str().map_or(0, |s| s.len() as u64 / 64))?;
            }
            continue;
        };
        state.consume_fuel(1)?;
        if open.len() > DEPTH {
            return refuse(format!("containers are nested more than {DEPTH} deep"));
        }
        let object = object.clone();
        match item.kind() {
            ValueKind::Map => {
                let pairs = object.try_iter_pairs().into_iter().flatten();
                open.push(Box::new(pairs.flat_map(|(key, value)| [key, value])));
            }
            ValueKind::Seq | ValueKind::Iterable => open.push(Box::new(object.try_iter().into_iter().flatten())),
            _ => {}
        }
    }
    Ok(())
}

/// `value | tojson`, as transformers has it: Python's `json.dumps` with `ensure_ascii=False`.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if let Some(indent) = indent.filter(|n| *n > INDENT_MAX) {
        return refuse(format!("tojson: indent is {indent}, the most is {INDENT_MAX}"));
    }
    weigh(state, value)?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "this value cannot be written as JSON").with_source(e))?;
    let style = python_json::Style { indent, sort: sort == Some(true), ascii: ascii == Some(true) };
    Ok(python_json::write(&json, &style))
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    options: Kwargs,
) -> Result<Value, Error> {
    weigh(state, value)?;
    filters::join(state, value, joiner, attribute, options)
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    weigh(state, value)?;
    filters::string(state, value)
}

/// `'%s' | format(x)`, with positional arguments.
fn format(state: &mut State, text: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let text = text.as_str().unwrap_or_default();
    check_format(state, text, &args)?;
    minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, text, &args).map(Value::from)
}

/// Python's methods on strings, lists and dictionaries.
fn methods(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "format") => check_format(state, text, args)?,
        (Some(_), "join") => args.iter().try_for_each(|arg| weigh(state, arg))?,
        (None, "count") => weigh(state, value)?,
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// A format string asks for a width with a few digits: "{:>999999999}" is a gigabyte of spaces.
fn check_format(state: &State, text: &str, args: &[Value]) -> Result<(), Error> {
    let mut digits = 0;
    for c in text.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > WIDTH_DIGITS {
            return refuse(format!("a format string holds a number of more than {WIDTH_DIGITS} digits"));
        }
    }
    args.iter().try_for_each(|arg| weigh(state, arg))
}
