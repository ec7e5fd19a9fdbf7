//! The parts of the study behind the premise, each with its journal or its figures.

use meden_lens::probe::file::MadeOn;
use meden_lens::probe::{Judging, Method};

use super::activations::{Activations, activations};
use super::behaviour::{Outcome, Prefixes, Source, shares};
use super::cells::Cell;
use super::companions::Companions;
use super::controls::{Known, against, baselines, controls};
use super::data::Relation;
use super::design::Design;
use super::prompt::{Demo, Demos, demonstrations};
use super::results::{Live, Question, RelationShares, Results, Steering, figures, located};
use super::settings::Settings;
use super::signals::{Probing, Signals, choose, chosen_scores, order, signals};
use super::task::{Asks, Task};
use super::{heads, live, paper, spread, steer, tug};
use crate::error::EvalError;
use crate::study::Journal;

use super::run::{Subject, pairs};

/// What the parts behind the premise share.
pub(super) struct Stage<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) settings: &'a Settings,
    pub(super) design: &'a Design,
    pub(super) sets: &'a [Vec<Demo<'a>>],
}

impl Stage<'_> {
    pub(super) fn judging(&self) -> Judging {
        Task::judging(self.settings.draws, self.settings.seed)
    }

    pub(super) fn probing(&self) -> Probing {
        Probing { method: Method::logistic(self.settings.lambda), judging: self.judging() }
    }

    pub(super) fn journal<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Journal<T>, EvalError> {
        Journal::open(&self.subject.folder.join(format!("{name}.jsonl")))
    }

    pub(super) fn look(
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
            let of = (&rows, asker.model.config(), asker.model.pool().threads());
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
    pub(super) fn ask(
        &self,
        task: &Task,
        (rows, known): (&Activations, &Known<'_>),
        results: &mut Results,
        companions: &mut Companions<'_>,
    ) -> Result<Signals, EvalError> {
        let (probing, model) = (self.probing(), self.subject.asker.model);
        let mut journal = self.journal(&format!("probes-{}", task.asks.name()))?;
        let found = signals(task, (rows, model.config(), model.pool().threads()), &probing, &mut journal, companions)?;
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

    pub(super) fn spreads(
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
    pub(super) fn firsts(&self, task: &Task, known: &Known<'_>) -> Result<Vec<[u32; 2]>, EvalError> {
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
    pub(super) fn answers(
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

    pub(super) fn push(
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
