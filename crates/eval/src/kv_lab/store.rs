//! Results that are already there, so that a second run skips them.

use std::collections::BTreeSet;

use super::record::Record;
use crate::error::EvalError;

/// The lines of a results file.
#[derive(Debug, Default)]
pub struct Store {
    records: Vec<Record>,
    keys: BTreeSet<String>,
}

/// What reading a results file gave.
#[derive(Debug)]
pub struct Opened {
    /// The results.
    pub store: Store,
    /// Bytes of the file that are whole lines; what comes after has to be cut off before more is written.
    pub whole: usize,
    /// What a user should know: a last line that was cut short.
    pub note: Option<String>,
}

impl Store {
    /// Reads the text of a results file. A last line without its end, as a killed run leaves it, is left out.
    ///
    /// # Errors
    /// Any other line that is no result.
    pub fn read(text: &str) -> Result<Opened, EvalError> {
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut store = Store::default();
        for (number, line) in text[..whole].lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let record = serde_json::from_str(line).map_err(|e| EvalError::Results {
                line: number + 1,
                why: format!("no result of this program: {e}; remove the line or write to another file"),
            })?;
            store.add(record);
        }
        let broken = text.len() - whole;
        let note =
            (broken > 0).then(|| format!("the last line was cut short ({broken} bytes); it is dropped and done again"));
        Ok(Opened { store, whole, note })
    }

    /// Takes in a result; one that is there already is replaced by nothing: the first stays.
    pub fn add(&mut self, record: Record) {
        if self.keys.insert(record.identity.key()) {
            self.records.push(record);
        }
    }

    /// Whether a measurement is there.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// All results, in the order they came.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Identity, Measured, VERSION};
    use super::*;
    use crate::task::{Question, TaskKind};
    use meden_engine::{KvTypes, SkipOverflow};

    fn record(item: usize, ratio: f64) -> Record {
        let identity = Identity {
            version: VERSION,
            model: "abc".into(),
            text: "built-in".into(),
            task: TaskKind::Passkey,
            length: 512,
            question: Question::Unseen,
            template: true,
            seed: 1,
            item,
            press: "knorm".parse().ok(),
            ratio,
            kv: KvTypes::F16,
            sinks: 4,
            recents: 64,
            skip_layers: None,
            skip_overflow: SkipOverflow::Window,
        };
        Record { identity, measured: Measured { written: vec!["a\nb".into()], ..Measured::default() } }
    }

    fn lines(records: &[Record]) -> String {
        records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect()
    }

    #[test]
    fn what_was_written_is_read_back_and_known() {
        let records = [record(0, 0.5), record(1, 0.875), record(0, 0.5)];
        let opened = Store::read(&lines(&records)).unwrap();
        assert_eq!(opened.store.records(), &records[..2], "a line that is there twice counts once");
        assert!(opened.store.has(&record(1, 0.875).identity.key()));
        assert!(!opened.store.has(&record(2, 0.5).identity.key()));
        assert!(opened.note.is_none());
    }

    #[test]
    fn a_last_line_cut_short_is_dropped_and_said_wherever_it_was_cut() {
        let (first, second) = (lines(&[record(0, 0.5)]), lines(&[record(1, 0.5)]));
        for cut in [1, 20, second.len() - 1] {
            let text = format!("{first}{}", &second[..cut]);
            let opened = Store::read(&text).unwrap();
            assert_eq!((opened.store.records().len(), opened.whole), (1, first.len()));
            assert!(opened.note.unwrap().contains(&cut.to_string()));
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error_with_its_number() {
        let text = format!("{}{{\"no\": 1}}\n{}", lines(&[record(0, 0.5)]), lines(&[record(1, 0.5)]));
        let error = Store::read(&text).unwrap_err();
        assert!(matches!(error, EvalError::Results { line: 2, .. }), "{error}");
    }
}
