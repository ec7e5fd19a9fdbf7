//! Items from files: CSV with options as a list or as columns, and JSON lines of ARC, TruthfulQA or one's own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::item::{Item, key};
use super::literal::list;
use super::table::{Csv, items_error};
use crate::error::EvalError;

/// Items of files, with what a reader should know about them.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The items, by file and row.
    pub items: Vec<Item>,
    /// Encodings that were guessed, and the like.
    pub notes: Vec<String>,
}

/// Files of a path: itself, or the `.csv` and `.jsonl` files of a folder by name.
///
/// # Errors
/// A path that cannot be read, a folder without such files.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, EvalError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| unreadable(path, &e))? {
        let file = entry.map_err(|e| unreadable(path, &e))?.path();
        if file.extension().is_some_and(|e| e == "csv" || e == "jsonl") {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(items_error(&path.display().to_string(), 0, "no .csv or .jsonl file in the folder"));
    }
    Ok(found)
}

/// Bytes of a file.
///
/// # Errors
/// What the operating system refuses, with the file's name.
pub fn bytes(path: &Path) -> Result<Vec<u8>, EvalError> {
    std::fs::read(path).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &std::io::Error) -> EvalError {
    items_error(&path.display().to_string(), 0, &format!("cannot be read: {error}"))
}

/// The subject that a file's name speaks of: without folder, ending, `mmlu_` before and `_test`, `_dev`, `_val` behind.
pub fn subject(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_prefix("mmlu_").unwrap_or(&stem);
    let ends = ["_test", "_dev", "_val"];
    ends.iter().find_map(|e| stem.strip_suffix(e)).unwrap_or(stem).to_owned()
}

/// Reads the items of a file or of all files of a folder.
///
/// # Errors
/// A file that cannot be read, and any row that is no item, with its line and what would do.
pub fn read(path: &Path) -> Result<Imported, EvalError> {
    let mut all = Imported::default();
    for file in files(path)? {
        let name = file.display().to_string();
        let data = bytes(&file)?;
        if file.extension().is_some_and(|e| e == "jsonl" || e == "json") {
            json_lines(&name, &subject(&file), &data, &mut all)?;
        } else {
            csv(&name, &subject(&file), &data, &mut all)?;
        }
    }
    Ok(all)
}

/// Where the options of a row stand.
enum Options {
    List(usize),
    Columns(Vec<usize>),
}

fn option_columns(table: &Csv, name: &str) -> Result<Options, EvalError> {
    if let Some(column) = table.column("choices").or_else(|| table.column("options")) {
        return Ok(Options::List(column));
    }
    let numbered: Vec<usize> = (0..26).map_while(|i| table.column(&format!("choice{i}"))).collect();
    let lettered: Vec<usize> = ('A'..='Z').map_while(|c| table.column(&c.to_string())).collect();
    let columns = if numbered.len() >= 2 { numbered } else { lettered };
    if columns.len() < 2 {
        let why = format!(
            "no options: a column `choices`, or choice0, choice1, ..., or A, B, ...; the header has: {}",
            table.header.join(", ")
        );
        return Err(items_error(name, 1, &why));
    }
    Ok(Options::Columns(columns))
}

fn csv(name: &str, subject: &str, data: &[u8], all: &mut Imported) -> Result<(), EvalError> {
    let table = Csv::read(name, data)?;
    let question = table.need(name, "question")?;
    let answer = table.need(name, "answer")?;
    let options = option_columns(&table, name)?;
    for (row, (line, cells)) in table.rows.iter().enumerate() {
        let choices = match &options {
            Options::List(column) => list(&cells[*column])
                .ok_or_else(|| items_error(name, *line, "`choices` is no list; write [\"a\", \"b\"]"))?,
            // options that are missing at the end are no options
            Options::Columns(columns) => {
                let mut choices: Vec<String> = columns.iter().map(|&c| cells[c].clone()).collect();
                while choices.last().is_some_and(String::is_empty) {
                    choices.pop();
                }
                choices
            }
        };
        let key = key(&cells[answer], &choices).ok_or_else(|| {
            items_error(name, *line, &format!("the answer `{}` is no number, letter or option", cells[answer]))
        })?;
        let item = Item {
            id: format!("{subject}/{row:03}"),
            subject: subject.to_owned(),
            question: cells[question].clone(),
            choices,
            answer: key,
            right: vec![key],
        };
        item.check().map_err(|why| items_error(name, *line, &why))?;
        all.items.push(item);
    }
    all.notes.extend(table.notes);
    Ok(())
}

fn json_lines(name: &str, subject: &str, data: &[u8], all: &mut Imported) -> Result<(), EvalError> {
    let text = std::str::from_utf8(data).map_err(|e| items_error(name, 1, &format!("not UTF-8: {e}")))?;
    for (row, (at, line)) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).enumerate() {
        let value: Value = serde_json::from_str(line).map_err(|e| items_error(name, at + 1, &e.to_string()))?;
        let mut item = of_json(&value).map_err(|why| items_error(name, at + 1, &why))?;
        if item.subject.is_empty() {
            subject.clone_into(&mut item.subject);
        }
        item.id = format!("{}/{row:03}", item.subject);
        item.check().map_err(|why| items_error(name, at + 1, &why))?;
        all.items.push(item);
    }
    Ok(())
}

/// ARC (`question.stem`, `question.choices[{text, label}]`, `answerKey`), TruthfulQA (`mc1_targets`), or plain
/// `question`, `choices`, `answer`.
fn of_json(value: &Value) -> Result<Item, String> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let subject = text(&value["subject"]).unwrap_or_default();
    let blank = |question, choices, answer| Item {
        id: String::new(),
        subject: subject.clone(),
        question,
        choices,
        answer,
        right: vec![answer],
    };
    if let Some(stem) = text(&value["question"]["stem"]) {
        let options = value["question"]["choices"].as_array().ok_or("question.choices is no list")?;
        let part = |o: &Value, key: &str| text(&o[key]).ok_or(format!("an option without `{key}`"));
        let choices = options.iter().map(|o| part(o, "text")).collect::<Result<Vec<_>, _>>()?;
        let labels = options.iter().map(|o| part(o, "label")).collect::<Result<Vec<_>, _>>()?;
        let key = text(&value["answerKey"]).ok_or("no answerKey")?;
        let answer =
            labels.iter().position(|l| *l == key).ok_or(format!("answerKey {key} is none of {}", labels.join(", ")))?;
        return Ok(blank(stem, choices, answer));
    }
    let question = text(&value["question"]).ok_or("no `question`")?;
    if let Some(targets) = value["mc1_targets"].as_object() {
        let choices = targets.keys().cloned().collect();
        let answer = targets.values().position(|v| v.as_i64() == Some(1)).ok_or("mc1_targets: no right answer")?;
        return Ok(blank(question, choices, answer));
    }
    let choices = value["choices"].as_array().ok_or("no `choices`")?;
    let choices: Vec<String> =
        choices.iter().map(|c| text(c).ok_or("an option that is no text".to_owned())).collect::<Result<_, _>>()?;
    let answer = match &value["answer"] {
        Value::Number(n) => n.as_u64().map(|n| n as usize),
        Value::String(s) => key(s, &choices),
        _ => None,
    };
    let answer = answer.ok_or("`answer` is no number, letter or option")?;
    Ok(blank(question, choices, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_layouts_give_items() {
        let mut all = Imported::default();
        csv("f", "s", b"question,choice0,choice1,choice2,answer\nq,a,b,,1\n", &mut all).unwrap();
        csv("f", "s", b"answer;question;choices\nB;q;\"['a', 'b']\"\n", &mut all).unwrap();
        let arc = r#"{"question":{"stem":"q","choices":[{"text":"a","label":"1"},{"text":"b","label":"2"}]},"answerKey":"2"}"#;
        json_lines("f", "s", arc.as_bytes(), &mut all).unwrap();
        json_lines("f", "s", br#"{"question":"q","mc1_targets":{"a":0,"b":1}}"#, &mut all).unwrap();
        json_lines("f", "s", br#"{"question":"q","choices":["a","b"],"answer":"b","subject":"s"}"#, &mut all).unwrap();
        assert_eq!(all.items.len(), 5);
        for item in &all.items {
            assert_eq!(item, &all.items[0]);
        }
    }

    #[test]
    fn what_is_no_item_is_refused_with_its_line() {
        let mut all = Imported::default();
        for bad in ["q,a,b,2", ",a,b,0", "q,a,,0", "q,a,b,nothing"] {
            let text = format!("question,A,B,answer\n{bad}\n");
            let error = csv("f.csv", "s", text.as_bytes(), &mut all).unwrap_err().to_string();
            assert!(error.contains("f.csv") && error.contains("line 2"), "{error}");
        }
        assert!(csv("f", "s", b"question,answer\nq,0\n", &mut all).is_err());
        assert!(all.items.is_empty());
    }
}
