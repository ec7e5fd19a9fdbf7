//! Every press at every share on every item, from one dense prefill an item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meden_engine::{Budget, EngineError, KvTypes, Model, Policy, PressSpec, Schedule, SkipOverflow};
use serde::{Deserialize, Serialize};

use super::record::{Identity, Measured, Record, VERSION};
use super::store::Store;
use super::{label, long, measure};
use crate::error::EvalError;
use crate::task::{Content, Place, Question, Source, TaskKind};

/// Says how much time has passed since some moment.
pub type Clock<'a> = &'a dyn Fn() -> Duration;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Tasks.
    pub tasks: Vec<TaskKind>,
    /// Tokens of the compressed part.
    pub lengths: Vec<usize>,
    /// Presses; the dense cache is measured in any case.
    pub presses: Vec<PressSpec>,
    /// Shares removed, each in [0, 1).
    pub ratios: Vec<f64>,
    /// Element types; distances are to the dense cache of the first.
    pub kv: Vec<KvTypes>,
    /// Whether presses see the question.
    pub questions: Vec<Question>,
    /// Seeds of the data.
    pub seeds: Vec<u64>,
    /// Items of each seed.
    pub items: usize,
    /// Whether prompts go through the chat template.
    pub template: bool,
    /// What is protected and left alone.
    pub spare: Spare,
    /// Most tokens read in one go.
    pub prefill_chunk: usize,
}

/// What presses have to leave alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spare {
    /// First tokens that always stay.
    pub sinks: usize,
    /// Newest tokens that always stay.
    pub recents: usize,
    /// Layers left alone; `None` for the press's own choice.
    pub skip_layers: Option<Vec<usize>>,
    /// What happens to a skipped layer that outgrows the budget.
    pub skip_overflow: SkipOverflow,
}

impl Spare {
    /// The policy of a press and a budget.
    pub fn policy(&self, press: &PressSpec, budget: Budget, schedule: Schedule) -> Policy {
        let mut policy = Policy::new(press.clone(), budget);
        policy.schedule = schedule;
        policy.skip_layers.clone_from(&self.skip_layers);
        policy.skip_overflow = self.skip_overflow;
        (policy.sinks, policy.recents) = (self.sinks, self.recents);
        policy
    }
}

/// One column of the sweep: how a cache is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The press; `None` for the dense cache.
    pub press: Option<PressSpec>,
    /// Share removed.
    pub ratio: f64,
    /// Element type.
    pub kv: KvTypes,
}

/// What the sweep works on.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Arc<Model>,
    /// Text and tokenizer.
    pub source: Source<'a>,
}

/// Companions of a sweep.
pub struct Companions<'a> {
    /// Told measurements done and to be done in all.
    pub progress: &'a mut dyn FnMut(usize, usize),
    /// Set to true from another thread to stop after the running step.
    pub cancel: &'a AtomicBool,
    /// For the time of a press.
    pub clock: Option<Clock<'a>>,
    /// Given each result as soon as it is there.
    pub emit: &'a mut dyn FnMut(&Record) -> Result<(), EvalError>,
}

impl Spec {
    /// Refuses settings that measure nothing.
    ///
    /// # Errors
    /// An empty list, a share outside [0, 1), no items, a press whose parameters are out of range.
    pub fn check(&self) -> Result<(), EvalError> {
        let refuse = |field: &'static str, value: String, allowed: &str| {
            Err(EvalError::Setting { field, value, allowed: allowed.to_owned() })
        };
        for (field, empty) in [
            ("tasks", self.tasks.is_empty()),
            ("lengths", self.lengths.is_empty()),
            ("kv types", self.kv.is_empty()),
            ("questions", self.questions.is_empty()),
            ("seeds", self.seeds.is_empty()),
        ] {
            if empty {
                return refuse(field, "nothing".to_owned(), "at least one");
            }
        }
        if self.items == 0 {
            return refuse("items", "0".to_owned(), "at least 1");
        }
        for press in &self.presses {
            press.build()?;
        }
        if let Some(bad) = self.ratios.iter().find(|r| !(0.0..1.0).contains(*r)) {
            return refuse("ratio", bad.to_string(), "the share removed, from 0 to below 1");
        }
        Ok(())
    }

    /// The columns, the dense cache of each type first.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &kv in &self.kv {
            cells.push(Cell { press: None, ratio: 0.0, kv });
            for press in &self.presses {
                // a press that decides itself how much stays is measured once
                let own = press.build().is_ok_and(|p| p.own_budget());
                for &ratio in if own { &[0.0][..] } else { &self.ratios[..] } {
                    cells.push(Cell { press: Some(press.clone()), ratio, kv });
                }
            }
        }
        cells
    }

    /// The columns of a task: a press that acts once, at the end of a prefill, has nothing to do in a cache that is kept
    /// small all the way, nor has one that decides itself how much stays, since there is a cap.
    fn cells_of(&self, task: TaskKind) -> Vec<Cell> {
        let mut cells = self.cells();
        if task.is_on_the_way() {
            cells.retain(|cell| cell.press.as_ref().is_none_or(acts_on_the_way));
        }
        cells
    }

    /// What is asked for and cannot be measured, in words; one line a press.
    pub fn left_out(&self) -> Vec<String> {
        let tasks: Vec<String> = self.tasks.iter().filter(|t| t.is_on_the_way()).map(TaskKind::to_string).collect();
        if tasks.is_empty() {
            return Vec::new();
        }
        let presses = self.presses.iter().filter(|press| !acts_on_the_way(press));
        let line = |press: &PressSpec| {
            format!(
                "{} acts once, at the end of a text, or by a rule of its own: left out of {}",
                label(press),
                tasks.join(" and ")
            )
        };
        presses.map(line).collect()
    }

    fn identity(&self, subject: &Subject<'_>, row: &Row, cell: &Cell) -> Identity {
        Identity {
            version: VERSION,
            model: hex(subject.model.fingerprint()),
            text: subject.source.texts.name().to_owned(),
            task: row.task,
            length: row.place.length,
            question: row.question,
            template: subject.source.template,
            seed: row.place.seed,
            item: row.place.number,
            press: cell.press.clone(),
            ratio: cell.ratio,
            kv: cell.kv,
            sinks: self.spare.sinks,
            recents: self.spare.recents,
            skip_layers: self.spare.skip_layers.clone(),
            skip_overflow: self.spare.skip_overflow,
        }
    }

    /// The rows: items, with what a press sees of them. Tasks without a question are read once.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for &task in &self.tasks {
            let asked = task.is_asked();
            let questions = if asked { &self.questions[..] } else { &[Question::Unseen] };
            for &length in &self.lengths {
                for &seed in &self.seeds {
                    for number in 0..self.items {
                        let place = Place { seed, number, length };
                        rows.extend(questions.iter().map(|&question| Row { task, place, question }));
                    }
                }
            }
        }
        rows
    }
}

/// One item as presses see it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    task: TaskKind,
    place: Place,
    question: Question,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Measurements made now.
    pub measured: usize,
    /// Measurements that were there already.
    pub skipped: usize,
}

/// Measures what is missing in `store`.
///
/// # Errors
/// Settings that measure nothing; texts and tasks that do not fit; what the engine refuses; cancellation, after which
/// everything given to `emit` stays valid.
pub fn run(
    spec: &Spec,
    subject: &Subject<'_>,
    store: &mut Store,
    companions: &mut Companions<'_>,
) -> Result<Done, EvalError> {
    spec.check()?;
    let rows = spec.rows();
    let cells: BTreeMap<TaskKind, Vec<Cell>> = spec.tasks.iter().map(|&task| (task, spec.cells_of(task))).collect();
    let missing = |row: &Row, store: &Store| -> Vec<Cell> {
        let is_missing = |cell: &&Cell| !store.has(&spec.identity(subject, row, cell).key());
        cells[&row.task].iter().filter(is_missing).cloned().collect()
    };
    let all: usize = rows.iter().map(|row| cells[&row.task].len()).sum();
    let total: usize = rows.iter().map(|row| missing(row, store).len()).sum();
    let mut done = Done { measured: 0, skipped: all - total };
    (companions.progress)(0, total);
    for row in &rows {
        let cells = missing(row, store);
        if cells.is_empty() {
            continue;
        }
        let item = row.task.task().item(row.place, &subject.source)?;
        let (cancel, clock) = (companions.cancel, companions.clock);
        let Companions { progress, emit, .. } = &mut *companions;
        let mut take = |cell: &Cell, measured: Measured| -> Result<(), EvalError> {
            let record = Record { identity: spec.identity(subject, row, cell), measured };
            emit(&record)?;
            store.add(record);
            done.measured += 1;
            progress(done.measured, total);
            Ok(())
        };
        let work = Work { spec, subject, cells: &cells, question: row.question, cancel, clock };
        match &item.content {
            Content::Ask { .. } | Content::Continue { .. } => measure::item(&work, &item, &mut take)?,
            Content::Capped { ids } => long::capped(&work, ids, &mut take)?,
            Content::Decode { prompt, tokens } => long::decode(&work, (prompt, *tokens), &mut take)?,
        }
    }
    Ok(done)
}

/// The results in `store` that belong to `spec`, in its order.
pub fn chosen<'s>(spec: &Spec, subject: &Subject<'_>, store: &'s Store) -> Vec<&'s Record> {
    let by_key: BTreeMap<String, &Record> = store.records().iter().map(|r| (r.identity.key(), r)).collect();
    let rows = spec.rows();
    let keys = rows.iter().flat_map(|row| spec.cells_of(row.task).into_iter().map(move |cell| (row, cell)));
    keys.filter_map(|(row, cell)| by_key.get(&spec.identity(subject, row, &cell).key()).copied()).collect()
}

/// One item's work.
pub(super) struct Work<'a> {
    pub(super) spec: &'a Spec,
    pub(super) subject: &'a Subject<'a>,
    /// What is to be measured.
    pub(super) cells: &'a [Cell],
    pub(super) question: Question,
    pub(super) cancel: &'a AtomicBool,
    pub(super) clock: Option<Clock<'a>>,
}

/// Takes in a cell's result.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Cell, Measured) -> Result<(), EvalError>;

impl Work<'_> {
    /// Stops where the caller has asked for it.
    pub(super) fn check_cancelled(&self) -> Result<(), EvalError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled { done: 0, total: 0, pressed_layers: 0 }.into());
        }
        Ok(())
    }
}

fn acts_on_the_way(press: &PressSpec) -> bool {
    press.build().is_ok_and(|press| press.only_at_prefill_end().is_none() && !press.own_budget())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            tasks: vec![TaskKind::Passkey, TaskKind::Continuation],
            lengths: vec![256],
            presses: vec!["knorm".parse().unwrap()],
            ratios: vec![0.25, 0.5],
            kv: vec![KvTypes::F16, KvTypes::Q8],
            questions: vec![Question::Unseen, Question::Seen],
            seeds: vec![1, 2],
            items: 3,
            template: true,
            spare: Spare { sinks: 4, recents: 8, skip_layers: None, skip_overflow: SkipOverflow::Window },
            prefill_chunk: 512,
        }
    }

    #[test]
    fn every_type_has_its_dense_cell_and_only_asked_tasks_have_two_views() {
        let cells = spec().cells();
        assert_eq!(cells.len(), 2 * (1 + 2));
        assert_eq!(cells.iter().filter(|c| c.press.is_none()).count(), 2);
        assert_eq!(spec().rows().len(), 2 * 3 * 2 + 2 * 3);
    }

    #[test]
    fn what_cannot_act_on_the_way_is_left_out_of_long_tasks_and_named() {
        let presses = ["knorm", "kvzip", "think"].map(|p| p.parse().unwrap()).to_vec();
        let spec = Spec { presses, tasks: vec![TaskKind::Passkey, TaskKind::Capped], ..spec() };
        assert_eq!(spec.cells_of(TaskKind::Passkey).len(), 2 * (1 + 2 + 2 + 1));
        assert_eq!(spec.cells_of(TaskKind::Capped).len(), 2 * (1 + 2));
        let notes = spec.left_out();
        assert!(notes.len() == 2 && notes[0].contains("kvzip") && notes[1].contains("think"), "{notes:?}");
        assert!(Spec { tasks: vec![TaskKind::Passkey], ..spec }.left_out().is_empty());
    }

    #[test]
    fn settings_that_measure_nothing_are_refused_by_name() {
        assert!(spec().check().is_ok());
        for (bad, name) in [
            (Spec { tasks: vec![], ..spec() }, "tasks"),
            (Spec { seeds: vec![], ..spec() }, "seeds"),
            (Spec { items: 0, ..spec() }, "items"),
            (Spec { ratios: vec![0.5, 1.0], ..spec() }, "ratio"),
            (Spec { ratios: vec![f64::NAN], ..spec() }, "ratio"),
        ] {
            assert!(bad.check().unwrap_err().to_string().contains(name));
        }
    }
}
