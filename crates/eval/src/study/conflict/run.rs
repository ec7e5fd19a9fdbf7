//! The whole study, part after part. Each part writes what it finds into the study's folder and is not done twice.

use std::path::Path;

use meden_engine::Control;

use super::ask::Asker;
use super::behaviour::{Outcome, Premise, observe};
use super::cells::{Cell, cells, demonstration_sets};
use super::companions::Companions;
use super::data::Relation;
use super::design::{Design, design};
use super::findings::findings;
use super::memory;
use super::plan::Plan;
use super::prompt::{Demos, closed_book_demonstrations};
use super::results::{Memory, Results};
use super::settings::Settings;
use super::stage::Stage;
use crate::error::EvalError;
use crate::study::Journal;

/// What a study is about.
pub struct Subject<'a> {
    /// The model and its words.
    pub asker: Asker<'a>,
    /// Facts.
    pub relations: &'a [Relation],
    /// Facts for demonstrations where those to be tested have none of their own.
    pub demonstrations: &'a [Relation],
    /// Folder that everything is kept in.
    pub folder: &'a Path,
}

/// Makes the study, or goes on with one that was stopped.
///
/// # Errors
/// Settings that make no sense or are not those that the folder was begun with; what the engine refuses; cancellation,
/// with what is done in the folder.
pub fn run(subject: &Subject<'_>, settings: &Settings, companions: &mut Companions<'_>) -> Result<Results, EvalError> {
    settings.check()?;
    begin(subject.folder, settings)?;
    let Subject { asker, relations, .. } = subject;
    let journal = |name: &str| subject.folder.join(format!("{name}.jsonl"));

    // what the model knows, and what can be made of it
    let closed =
        demonstration_sets(subject.demonstrations, (1, settings.closed_book_demonstrations), settings.seed, |_, _| {
            true
        });
    let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
    let prefix = asker.prefix(&closed_book_demonstrations(&closed[0]), &mut control)?;
    let mut recalled = Journal::open(&journal("memory"))?;
    memory::recall(asker, (relations, &prefix), &mut recalled, companions)?;
    let mut shown = Journal::open(&journal("demonstrations"))?;
    memory::recall(asker, (subject.demonstrations, &prefix), &mut shown, companions)?;
    drop(prefix);
    let usable = memory::known(subject.demonstrations, &shown);
    let size = (settings.sets, settings.demonstrations);
    let sets = demonstration_sets(subject.demonstrations, size, settings.seed, |r, f| usable.contains_key(&(r, f)));
    let design = design(asker, relations, &recalled, (settings.per_answer, settings.seed))?;
    let all = cells(relations, &design, settings.sets);

    // the premise first: what it refuses costs no more
    let mut observed: Journal<Outcome> = Journal::open(&journal("behaviour"))?;
    let first = Premise::cells(&all);
    observe(asker, (relations, &design), (&first, &sets), &mut observed, companions)?;
    let premise = Premise::of(pairs(&first, relations, &design, &observed).iter().map(|(c, o)| (c, *o)));
    let plan = Plan::of(&design, &premise);
    announce(&plan, &premise, companions);
    let mut results = Results {
        settings: settings.clone(),
        layers: asker.model.config().layers,
        memory: memories(relations, &recalled, &design),
        matching: design.matching.clone(),
        left_out: design.left_out.clone(),
        premise,
        plan,
        shares: Vec::new(),
        by_relation: Vec::new(),
        questions: Vec::new(),
        order: None,
        spreads: Vec::new(),
        tug: Vec::new(),
        heads: Vec::new(),
        steering: None,
        paper: Vec::new(),
        live: Vec::new(),
        findings: Vec::new(),
    };
    if results.premise.holds && !design.cases.is_empty() {
        // the conflict question reads agreeing demonstrations alone
        let asked: Vec<Cell> =
            all.iter().filter(|c| settings.source || c.demos == Demos::Agree || c.is_of_premise()).copied().collect();
        observe(asker, (relations, &design), (&asked, &sets), &mut observed, companions)?;
        let stage = Stage { subject, settings, design: &design, sets: &sets };
        stage.look(&all, &observed, &mut results, companions)?;
    }
    results.findings = findings(&results);
    Ok(results)
}

/// Writes the settings down, or holds them against those that are there.
fn begin(folder: &Path, settings: &Settings) -> Result<(), EvalError> {
    let path = folder.join("study.json");
    let told = serde_json::to_string_pretty(settings).map_err(std::io::Error::other)?;
    match std::fs::read_to_string(&path) {
        Ok(there) => {
            let begun: Option<Settings> = serde_json::from_str(&there).ok();
            if begun.as_ref() == Some(settings) {
                return Ok(());
            }
            Err(EvalError::Setting {
                field: "folder",
                value: folder.display().to_string(),
                allowed:
                    "a folder without a study, or with one of the same model, data and settings (see its study.json)"
                        .to_owned(),
            })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            Ok(std::fs::write(&path, told)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// Cells with what came of them; cells that were not asked are left out.
pub(super) fn pairs<'j>(
    cells: &[Cell],
    relations: &[Relation],
    design: &Design,
    journal: &'j Journal<Outcome>,
) -> Vec<(Cell, &'j Outcome)> {
    cells.iter().filter_map(|c| Some((*c, journal.get(&c.key(relations, design))?))).collect()
}

fn announce(plan: &Plan, premise: &Premise, companions: &mut Companions<'_>) {
    let least = |v: Option<f64>| v.map_or_else(|| "nothing".to_owned(), |v| format!("an AUROC of {v:.2}"));
    (companions.say)(&format!(
        "{} facts with {} answers will be tested; {} for conflict and {} for the source could be told from chance \
         (5%, power 80%)",
        plan.facts,
        plan.answers,
        least(plan.least_conflict_auroc),
        least(plan.least_source_auroc)
    ));
    if plan.underpowered {
        (companions.say)("underpowered: too few facts are known for anything to be claimed");
    }
    if !premise.holds {
        (companions.say)(
            "the premise fails: the model does not follow the text and memory often enough each; the study ends here",
        );
    }
}

fn memories(relations: &[Relation], recalled: &Journal<memory::Recall>, design: &Design) -> Vec<Memory> {
    let tested = |r: usize| design.cases.iter().filter(|c| c.relation == r).count();
    let table = memory::table(relations, recalled).into_iter().enumerate();
    table.map(|(r, (relation, facts, known))| Memory { relation, facts, known, tested: tested(r) }).collect()
}
