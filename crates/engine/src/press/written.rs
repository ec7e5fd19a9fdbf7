//! How presses are written: a name (`knorm`), a name with parameters or a wrapped press in parentheses
//! (`snapkv(window_size=32)`, `adakv(snapkv)`, `chunk(knorm, chunk_length=512)`), or the JSON of a file
//! (`{"kind": "knorm"}`).

use serde_json::{Map, Value};

use super::PressSpec;
use super::registry;
use crate::error::EngineError;

impl std::str::FromStr for PressSpec {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let text = text.trim();
        let value = if text.starts_with('{') {
            serde_json::from_str(text).map_err(|error| EngineError::Setting {
                field: "press",
                value: text.to_string(),
                allowed: format!("JSON such as {{\"kind\": \"knorm\"}} ({error})"),
            })?
        } else {
            short_form(text)?
        };
        from_value(value, text)
    }
}

/// A press from its JSON; `text` is what was written.
fn from_value(value: Value, text: &str) -> Result<PressSpec, EngineError> {
    let refuse = |allowed: String| EngineError::Setting { field: "press", value: text.to_string(), allowed };
    let kind = value["kind"].as_str().unwrap_or_default().to_string();
    if registry::find(&kind).is_none() {
        let names: Vec<_> = registry::REGISTRY.iter().map(|p| p.name).collect();
        return Err(refuse(format!(
            "presses are {}; parameters go in parentheses, as in streaming_llm(n_sink=4), or in JSON such as {{\"kind\": \"streaming_llm\", \"n_sink\": 4}}",
            names.join(", ")
        )));
    }
    serde_json::from_value(value).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line").next().unwrap_or_default();
        let known = PressSpec::by_name(&kind).and_then(|p| serde_json::to_string(&p).ok()).unwrap_or_default();
        refuse(format!("{reason}; `{kind}` with its defaults is {known}"))
    })
}

/// `name`, `name(key=value, …)` and `name(inner press, key=value, …)` as JSON.
fn short_form(text: &str) -> Result<Value, EngineError> {
    let refuse = || EngineError::Setting {
        field: "press",
        value: text.to_string(),
        allowed: "a name, or a name with parameters in parentheses such as snapkv(window_size=32) or adakv(snapkv)"
            .into(),
    };
    let text = text.trim();
    let Some((name, rest)) = text.split_once('(') else {
        return Ok(serde_json::json!({ "kind": text }));
    };
    let inside = rest.strip_suffix(')').ok_or_else(refuse)?;
    let (mut fields, mut several) = (Map::new(), Vec::new());
    let holds_several = name.trim() == "composed";
    fields.insert("kind".into(), name.trim().into());
    for part in split_outside(inside).ok_or_else(refuse)? {
        match part.split_once('=') {
            Some((key, value)) if !key.contains('(') => {
                let value = value.trim();
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
                fields.insert(key.trim().into(), value);
            }
            _ if holds_several => several.push(short_form(part)?),
            _ if fields.contains_key("press") => return Err(refuse()),
            _ => {
                fields.insert("press".into(), short_form(part)?);
            }
        }
    }
    if !several.is_empty() {
        fields.insert("presses".into(), several.into());
    }
    Ok(Value::Object(fields))
}

/// Split at commas that stand in no parentheses.
fn split_outside(text: &str) -> Option<Vec<&str>> {
    let (mut depth, mut first, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(text[first..at].trim());
                first = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[first..].trim());
    (depth == 0 && parts.iter().all(|p| !p.is_empty())).then_some(parts)
}

impl std::fmt::Display for PressSpec {
    /// The short form, with the parameters that differ from their defaults.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name();
        let value = serde_json::to_value(self).map_err(|_| std::fmt::Error)?;
        let usual = PressSpec::by_name(name).and_then(|p| serde_json::to_value(p).ok()).unwrap_or_default();
        let mut parts = Vec::new();
        if let Some(inner) = self.inner() {
            parts.push(inner.to_string());
        }
        parts.extend(self.parts().iter().map(PressSpec::to_string));
        for (key, value) in value.as_object().into_iter().flatten() {
            if !["kind", "press", "presses"].contains(&key.as_str()) && usual.get(key) != Some(value) {
                parts.push(format!("{key}={value}"));
            }
        }
        if parts.is_empty() { f.write_str(name) } else { write!(f, "{name}({})", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_registry_is_a_press_that_builds() {
        for info in registry::REGISTRY {
            let spec = PressSpec::by_name(info.name).unwrap_or_else(|| panic!("{}", info.name));
            assert_eq!(spec.name(), info.name);
            match spec.build() {
                Ok(press) => assert_eq!(press.name(), info.name),
                // some presses cannot be guessed: a file, a threshold, the length of a question
                Err(error) => assert!(error.to_string().contains("is missing"), "{}: {error}", info.name),
            }
            assert_eq!(spec.to_string().parse::<PressSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn the_short_form_and_json_say_the_same() {
        for (short, json) in [
            ("knorm", r#"{"kind": "knorm"}"#),
            ("snapkv(window_size=32)", r#"{"kind": "snapkv", "window_size": 32}"#),
            ("adakv(snapkv)", r#"{"kind": "adakv", "press": {"kind": "snapkv"}}"#),
            (
                "chunk( keydiff , chunk_length = 7)",
                r#"{"kind": "chunk", "press": {"kind": "keydiff"}, "chunk_length": 7}"#,
            ),
            (
                "adakv(criticalkv(snapkv(window_size=8)))",
                r#"{"kind": "adakv", "press": {"kind": "criticalkv", "press": {"kind": "snapkv", "window_size": 8}}}"#,
            ),
        ] {
            let a: PressSpec = short.parse().unwrap();
            assert_eq!(a, json.parse().unwrap());
            assert_eq!(a.to_string().parse::<PressSpec>().unwrap(), a);
        }
    }

    #[test]
    fn a_press_that_holds_several_names_them_in_a_row() {
        let a: PressSpec = "composed(snapkv(window_size=8), keydiff, keeps=[0.5])".parse().unwrap();
        let json = r#"{"kind": "composed", "presses": [{"kind": "snapkv", "window_size": 8}, {"kind": "keydiff"}], "keeps": [0.5]}"#;
        assert_eq!(a, json.parse().unwrap());
        assert_eq!(a.to_string(), "composed(snapkv(window_size=8), keydiff, keeps=[0.5])");
        assert_eq!(a.to_string().parse::<PressSpec>().unwrap(), a);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        for (text, part) in [
            ("knrom", "presses are knorm"),
            ("snapkv(windw=3)", "window_size"),
            ("snapkv(", "parentheses"),
            ("adakv(snapkv, tova)", "parentheses"),
            (r#"{"kind": "snapkv", "window_size": -1}"#, "window_size"),
            (r#"{"kind""#, "JSON"),
        ] {
            let error = text.parse::<PressSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
