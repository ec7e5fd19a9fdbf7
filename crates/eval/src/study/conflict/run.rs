//! The whole study, part after part. Each part writes what it finds into the study's folder and is not done twice.

use std::path::Path;

use meden_engine::Control;
use meden_lens::probe::file::MadeOn;
use meden_lens::probe::{Judging, Method};

use super::activations::{Activations, activations};
use super::ask::Asker;
use super::behaviour::{Outcome, Prefixes, Premise, Source, observe, shares};
use super::cells::{Cell, cells, demonstration_sets};
use super::companions::Companions;
use super::controls::{Known, against, baselines, controls};
use super::data::Relation;
use super::design::{Design, design};
use super::findings::findings;
use super::plan::Plan;
use super::prompt::{Demo, Demos, closed_book_demonstrations, demonstrations};
use super::results::{Live, Memory, Question, RelationShares, Results, Steering, figures, located};
use super::settings::Settings;
use super::signals::{Probing, Signals, choose, chosen_scores, order, signals};
use super::task::{Asks, Task};
use super::{heads, live, memory, paper, spread, steer, tug};
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
fn pairs<'j>(
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

/// What the parts behind the premise share.
struct Stage<'a> {
    subject: &'a Subject<'a>,
    settings: &'a Settings,
    design: &'a Design,
    sets: &'a [Vec<Demo<'a>>],
}

impl Stage<'_> {
    fn judging(&self) -> Judging {
        Task::judging(self.settings.draws, self.settings.seed)
    }

    fn probing(&self) -> Probing {
        Probing { method: Method::logistic(self.settings.lambda), judging: self.judging() }
    }

    fn journal<T: serde::Serialize + serde::de::DeserializeOwned>(&self, name: &str) -> Result<Journal<T>, EvalError> {
        Journal::open(&self.subject.folder.join(format!("{name}.jsonl")))
    }

    fn look(
        &self,
        all: &[Cell],
        observed: &Journal<Outcome>,
        results: &mut Results,
        companions: &mut Companions<'_>,
    ) -> Result<(), EvalError> {
        let (asker, relations) = (&self.subject.asker, self.subject.relations);
        let pairs = pairs(all, relations, self.design, observed);
        let with = || pairs.iter().map(|(c, o)| (c, *o));
        results.shares = Demos::ALL.into_iter().filter_map(|d| shares(with(), d)).collect();
        results.by_relation = by_relation(&pairs, relations, self.design);
        // activations of every row that a question reads
        let wanted = |(cell, outcome): &&(Cell, &Outcome)| {
            cell.demos == Demos::Agree
                || cell.demos != Demos::None && matches!(outcome.source, Source::Context | Source::Memory)
        };
        let (cells, outcomes): (Vec<Cell>, Vec<Outcome>) =
            pairs.iter().filter(wanted).map(|(c, o)| (*c, (*o).clone())).unzip();
        let mut prefixes = Prefixes::new(*asker, self.sets);
        let of = (&cells[..], &mut prefixes);
        let rows = activations(asker, (relations, self.design), of, self.subject.folder, companions)?;
        let known = Known { relations, design: self.design, cells: &cells, outcomes: &outcomes };

        let conflict = Task::new(Asks::Conflict, self.design, &cells, &outcomes);
        let conflict_signals = self.ask(&conflict, (&rows, &known), results, companions)?;
        if self.settings.paper_seeds > 0 {
            let how = (self.settings.lambda, self.settings.paper_seeds);
            let of = (&rows, asker.model.config());
            let figures = paper::paper((&conflict, &cells), of, how, &mut self.journal("paper")?, companions)?;
            results.paper = located(&figures);
        }
        if !self.settings.source {
            return Ok(());
        }
        let source = Task::new(Asks::Source, self.design, &cells, &outcomes);
        if source.facts(&cells).iter().any(|n| *n < 2) {
            (companions.say)("nearly all answers come from one source: nothing is asked about the source");
            return Ok(());
        }
        let source_signals = self.ask(&source, (&rows, &known), results, companions)?;
        let both = [(&conflict, &conflict_signals), (&source, &source_signals)];
        results.order = order(both, self.settings.draws, self.settings.seed);
        self.spreads(&source, (&rows, &cells), results, companions)?;
        self.answers(&source, &source_signals, (&rows, &known), (results, companions))?;
        let firsts = self.firsts(&source, &known)?;
        if self.settings.head_prompts > 0 {
            let of = (self.settings.head_prompts, &mut self.journal("heads")?);
            results.heads = heads::heads(asker, (&source, &firsts), (&known, &mut prefixes), of, companions)?;
        }
        self.push(&source, &conflict_signals, (&rows, &known, &mut prefixes), (results, companions))
    }

    /// Probes, choice, controls and baselines of one question, and the probe that is saved.
    fn ask(
        &self,
        task: &Task,
        (rows, known): (&Activations, &Known<'_>),
        results: &mut Results,
        companions: &mut Companions<'_>,
    ) -> Result<Signals, EvalError> {
        let (probing, model) = (self.probing(), self.subject.asker.model);
        let mut journal = self.journal(&format!("probes-{}", task.asks.name()))?;
        let found = signals(task, (rows, model.config()), &probing, &mut journal, companions)?;
        companions.step(&format!("controls for {}", task.asks.name()), 0, 1)?;
        let choice = choose(task, &found, &probing.judging)?;
        let place = meden_lens::place::Place::new(super::signals::CHOSEN, choice.layer);
        let examples = task.examples(rows.rows(place, &task.cells)?)?;
        let controls = controls(task, &examples, &probing, known)?;
        let (_, scored) = chosen_scores(task, &found);
        let judged = task.rows_of(true);
        let chosen = scored.pick(&judged);
        let baselines = match task.asks {
            Asks::Source => baselines(task, (&examples, &chosen), &probing, known)?,
            Asks::Conflict => Vec::new(),
        };
        let mut within = scored.clone();
        for (stratum, &cell) in within.strata.iter_mut().zip(&task.cells) {
            let relation = self.design.cases[known.cells[cell].case].relation as u32;
            *stratum += 64 * relation;
        }
        let mut by_lambda = Vec::new();
        for lambda in [1e-4, 3e-4, 6e-4, 1e-3] {
            let mut scored = task.plan().run(&Method::logistic(lambda), &examples)?;
            scored.strata.clone_from(&task.strata);
            by_lambda.push((lambda, scored.pick(&judged).evaluate(&probing.judging)?.auroc));
        }
        let made_on = MadeOn::of(&self.settings.model.0, model);
        let of = (&found, &choice, &controls[..]);
        // prompts took turns over the sets; a live question gets the first
        let preamble = self.sets.first().map_or_else(String::new, |set| demonstrations(set, Demos::Agree));
        let how = (probing.method, &probing.judging, preamble);
        let saved = live::live((task, known.cells), of, (rows, made_on), how);
        match saved {
            Ok((file, verdicts)) => {
                let name = format!("{}.probe.safetensors", task.asks.name());
                file.save(&self.subject.folder.join(&name))?;
                results.live.extend(file.about.evaluation.map(|evaluation| Live {
                    asks: task.asks,
                    file: name,
                    evaluation,
                    calibration_error: file.about.calibration.map_or(f64::NAN, |c| c.error),
                    verdicts,
                }));
            }
            Err(error) => (companions.say)(&format!("no probe for {} is saved: {error}", task.asks.name())),
        }
        results.questions.push(Question {
            asks: task.asks,
            rows: task.labels.len(),
            facts: task.facts(known.cells),
            places: figures(&found),
            choice,
            controls,
            within_relation: within.pick(&judged).evaluate(&probing.judging).ok().map(|e| e.auroc),
            by_lambda,
            baselines,
        });
        Ok(found)
    }

    fn spreads(
        &self,
        task: &Task,
        (rows, cells): (&Activations, &[Cell]),
        results: &mut Results,
        companions: &mut Companions<'_>,
    ) -> Result<(), EvalError> {
        let places = super::activations::places(self.subject.asker.model.config());
        let mut journal: Journal<spread::PlaceSpread> = self.journal("spreads")?;
        let mut all = std::collections::BTreeMap::new();
        for (done, &place) in places.iter().enumerate() {
            companions.step("measuring spreads", done, places.len())?;
            let key = place.to_string();
            if journal.get(&key).is_none() {
                let rows = rows.rows(place, &task.cells)?;
                journal.put(key.clone(), spread::spread(task, cells, &rows, &self.judging())?)?;
            }
            all.extend(journal.get(&key).map(|s| (place, s.clone())));
        }
        spread::adjust(&mut all);
        results.spreads = located(&all);
        Ok(())
    }

    /// First tokens of [the text's, memory's] answer of each row.
    fn firsts(&self, task: &Task, known: &Known<'_>) -> Result<Vec<[u32; 2]>, EvalError> {
        let asker = &self.subject.asker;
        let first = |answer: &str| Ok::<u32, EvalError>(asker.answer_ids(answer)?.first().copied().unwrap_or(0));
        let of = |&cell: &usize| {
            let cell = &known.cells[cell];
            let case = &self.design.cases[cell.case];
            let relation = &known.relations[case.relation];
            Ok([first(cell.says_of(relation, case))?, first(relation.facts[case.fact].answer())?])
        };
        task.cells.iter().map(of).collect()
    }

    /// The tug of war through the logit lens, and its margins as baselines.
    fn answers(
        &self,
        task: &Task,
        found: &Signals,
        (rows, known): (&Activations, &Known<'_>),
        (results, companions): (&mut Results, &mut Companions<'_>),
    ) -> Result<(), EvalError> {
        let firsts = self.firsts(task, known)?;
        let judging = self.judging();
        let mut journal = self.journal("tug")?;
        let model = self.subject.asker.model;
        results.tug = tug::tug((task, &firsts), (rows, model), &judging, &mut journal, companions)?;
        let (_, scored) = chosen_scores(task, found);
        let judged = task.rows_of(true);
        let Some(question) = results.questions.iter_mut().find(|q| q.asks == Asks::Source) else { return Ok(()) };
        let best = (0..results.tug.len())
            .fold(0, |b, l| if results.tug[l].margin.value > results.tug[b].margin.value { l } else { b });
        for (name, layer) in [("at the probe's layer", question.choice.layer), ("at its best layer", best)] {
            if let Some(standings) = journal.get(&layer.to_string()) {
                let name = format!("first-token margin through the logit lens {name} ({layer})");
                let margin = tug::margin(task, standings).pick(&judged);
                question.baselines.push(against(&name, &margin, &scored.pick(&judged), &judging)?);
            }
        }
        Ok(())
    }

    fn push(
        &self,
        source: &Task,
        conflict_signals: &Signals,
        (rows, known, prefixes): (&Activations, &Known<'_>, &mut Prefixes<'_>),
        (results, companions): (&mut Results, &mut Companions<'_>),
    ) -> Result<(), EvalError> {
        let Some(layer) = results.questions.iter().find(|q| q.asks == Asks::Source).map(|q| q.choice.layer) else {
            return Ok(());
        };
        if self.settings.steer_prompts == 0 {
            return Ok(());
        }
        let push = steer::Push {
            task: source,
            signals: conflict_signals,
            layer,
            prompts: self.settings.steer_prompts,
            strengths: &self.settings.strengths,
        };
        let of = (rows, &mut self.journal("steering")?);
        let arms = steer::steer(&self.subject.asker, &push, (known, prefixes), of, companions)?;
        results.steering = Some(Steering { layer, arms });
        Ok(())
    }
}

fn by_relation(pairs: &[(Cell, &Outcome)], relations: &[Relation], design: &Design) -> Vec<RelationShares> {
    let mut all = Vec::new();
    for (number, relation) in relations.iter().enumerate() {
        let of: Vec<Source> = pairs
            .iter()
            .filter(|(c, _)| c.is_conflict() && c.demos != Demos::None && design.cases[c.case].relation == number)
            .map(|(_, o)| o.source)
            .collect();
        if of.is_empty() {
            continue;
        }
        let share = |source: Source| of.iter().filter(|s| **s == source).count() as f64 / of.len() as f64;
        let (context, memory) = (share(Source::Context), share(Source::Memory));
        let shares = [context, memory, 1.0 - context - memory];
        all.push(RelationShares { relation: relation.name.clone(), prompts: of.len(), shares });
    }
    all
}
