//! Corrected sets: Redux CSV with canonical spellings, and JSON lines.

use serde_json::json;

use super::labels::{Correction, Labelled};

/// The seven columns of MMLU-Redux, canonical spellings, comma-separated, options as JSON.
pub fn redux_csv(rows: &[&Labelled]) -> String {
    let mut out = "question,choices,answer,error_type,source,correct_answer,potential_reason\n".to_owned();
    for row in rows {
        let choices = json!(row.item.choices).to_string();
        let answer = row.item.answer.to_string();
        let cells = [
            &row.item.question,
            &choices,
            &answer,
            &row.label.name().to_owned(),
            &row.raw[1],
            &row.raw[2],
            &row.raw[3],
        ];
        out.push_str(&cells.map(|c| quoted(c)).join(","));
        out.push('\n');
    }
    out
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// One object a row: the item, its label, what was held to be right, and, with `repair`, the key that replaces the old one.
pub fn json_lines(rows: &[&Labelled], repair: bool) -> String {
    let mut out = String::new();
    for row in rows {
        let accept = match &row.correction {
            Correction::Options(options) => json!(options),
            _ => json!(null),
        };
        let right = row.repaired().filter(|_| repair).unwrap_or(&row.item.right);
        let line = json!({
            "id": row.item.id,
            "subject": row.item.subject,
            "question": row.item.question,
            "choices": row.item.choices,
            "answer": right.first(),
            "right": right,
            "error_type": row.label.name(),
            "accept": accept,
        });
        out.push_str(&line.to_string());
        out.push('\n');
    }
    out
}
