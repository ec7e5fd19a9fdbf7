//! The real files of MMLU, MMLU-Redux and what ten models answered, where they lie beside the checkout: printed numbers of
//! the paper's own data.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use meden_eval::audit::detect::{self, Evidence, groups, quality};
use meden_eval::audit::labels::{Correction, Label};
use meden_eval::audit::predictions::{self, View, outcomes, scores};
use meden_eval::audit::{combine, judged, labels};
use meden_eval::choice::{self, Csv, Item};

fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/choice")).join(name);
    if !path.exists() {
        println!("skipped: {name} is not beside this checkout");
        return None;
    }
    Some(path)
}

#[test]
fn counts_are_those_of_the_published_labels() {
    let Some(path) = data("redux_csv") else { return };
    let redux = labels::read(&path).unwrap();
    assert_eq!(redux.rows.len(), 5700);
    let mut counts = BTreeMap::new();
    redux.rows.iter().for_each(|r| *counts.entry(r.label).or_insert(0) += 1);
    assert_eq!(Label::ALL.map(|l| counts[&l]), [5330, 132, 25, 35, 39, 107, 32]);
    let spellings: std::collections::BTreeSet<&str> = redux.rows.iter().map(|r| r.raw[0].as_str()).collect();
    assert_eq!(spellings.len(), 27);
    let odd: Vec<String> = redux.rows.iter().filter_map(|r| r.contradiction()).collect();
    let ids: Vec<&str> = odd.iter().map(|o| o.split(':').next().unwrap()).collect();
    assert_eq!(ids, ["astronomy/049", "global_facts/000", "global_facts/013"]);
    assert!(redux.notes.iter().any(|n| n.contains("moral_scenarios") && n.contains("Mac Roman")), "{:?}", redux.notes);
}

#[test]
fn corrections_agree_with_an_independent_parse() {
    let (Some(path), Some(index)) = (data("redux_csv"), data("redux_index.csv")) else { return };
    let rows = labels::read(&path).unwrap().rows;
    let table = Csv::read("index", &std::fs::read(index).unwrap()).unwrap();
    let at = |name: &str| table.column(name).unwrap();
    assert_eq!(rows.len(), table.rows.len());
    for (row, (_, cells)) in rows.iter().zip(&table.rows) {
        let accept = match &row.correction {
            Correction::Options(o) => o.iter().map(usize::to_string).collect::<Vec<_>>().join("|"),
            _ => String::new(),
        };
        assert_eq!(
            (&row.item.id, row.label.name(), row.item.answer.to_string(), &accept),
            (&cells[at("id")], cells[at("label")].as_str(), cells[at("answer")].clone(), &cells[at("accept")])
        );
    }
}

#[test]
fn repeats_of_the_test_split_are_all_found() {
    let Some(path) = data("mmlu_test") else { return };
    let items = choice::read(&path).unwrap().items;
    assert_eq!(items.len(), 14_042);
    let groups = groups(&items);
    let subjects =
        |g: &Vec<usize>| g.iter().map(|&i| items[i].subject.clone()).collect::<std::collections::BTreeSet<_>>();
    // 105 repeats in the same order, and one of prehistory whose options stand in another
    assert_eq!(groups.iter().map(|g| g.len() - 1).sum::<usize>(), 106);
    let turned = |g: &&Vec<usize>| {
        g.iter().any(|&i| detect::fold(&items[i].choices[0]) != detect::fold(&items[g[0]].choices[0]))
    };
    let turned: Vec<_> = groups.iter().filter(turned).collect();
    assert_eq!(turned.len(), 1);
    assert_eq!(items[turned[0][0]].subject, "prehistory");
    let within: usize = groups.iter().map(|g| g.len() - subjects(g).len()).sum();
    assert_eq!(within, 28);
}

#[test]
fn accuracies_in_four_views_have_their_printed_digits() {
    let (Some(path), Some(helm)) = (data("redux_csv"), data("helm_predictions.csv")) else { return };
    let rows = labels::read(&path).unwrap().rows;
    let predictions = predictions::read(&helm).unwrap();
    let n = predictions.models.len();
    let expected = [
        (View::All, 5698, 0.8438),
        (View::Ok, 5328, 0.8649),
        (View::Repaired, 5458, 0.8613),
        (View::Faulty, 338, 0.5266),
    ];
    for (view, items, opus) in expected {
        let scores = scores(&outcomes(&rows, &predictions, view, |_| true), n);
        assert_eq!(scores[0].n, items, "{}", view.name());
        let share = scores[0].share().unwrap();
        assert!((share - opus).abs() < 5e-5, "{}: {share}", view.name());
    }
    assert_eq!(predictions::voters(&predictions, detect::SAME_VOTER).len(), 9);
}

#[test]
fn judges_have_their_printed_counts() {
    let (Some(path), Some(verdicts)) = (data("redux_csv"), data("judge_verdicts.csv")) else { return };
    let rows = labels::read(&path).unwrap().rows;
    let judges = judged::judges(&rows, &predictions::read(&verdicts).unwrap());
    let of = |name: &str| judges.iter().find(|j| j.name == name).unwrap();
    let percent = |name: &str| of(name).macro_means.map(|m| (1e4 * m).round() / 100.0);
    assert_eq!(percent("opus_A"), [44.87, 34.68, 38.19]);
    assert_eq!(percent("opus_rag_wiki"), [82.61, 28.72, 41.92]);
    assert_eq!(percent("flag everything"), [100.0, 23.75, 38.79]);
    let opus = of("opus_A");
    let c = opus.pooled;
    assert_eq!([c.true_positive, c.false_positive, c.false_negative, c.true_negative], [82.0, 103.0, 70.0, 745.0]);
    assert!((opus.kappa.unwrap() - 0.384).abs() < 5e-4 && (opus.ac1.unwrap() - 0.760).abs() < 5e-4);
}

#[test]
fn the_vote_margin_has_its_printed_average_precision_and_known_misses_are_found() {
    let (Some(path), Some(helm)) = (data("redux_csv"), data("helm_predictions.csv")) else { return };
    let predictions = predictions::read(&helm).unwrap();
    let rows: Vec<_> = labels::read(&path)
        .unwrap()
        .rows
        .into_iter()
        .filter(|r| r.label != Label::Expert && predictions.answers.contains_key(&r.item.id))
        .collect();
    assert_eq!(rows.len(), 5666);
    let items: Vec<Item> = rows.iter().map(|r| r.item.clone()).collect();
    let faulty: Vec<bool> = rows.iter().map(|r| r.label != Label::Ok).collect();
    let evidence = Evidence::new(&items, Some(&predictions));
    let detectors = detect::all();
    let mut margin = Vec::new();
    for (detector, expected) in detectors.iter().zip([0.214, 0.196, 0.189]) {
        let scores = detect::scores(&detector.scan(&evidence));
        let q = quality(&faulty, &scores).unwrap();
        println!("{}: {q:?}", detector.name());
        assert!((q.average_precision - expected).abs() < 6e-4, "{}: {q:?}", detector.name());
        if margin.is_empty() {
            margin = scores;
        }
    }
    let options = detectors.iter().find(|d| d.name() == "options").unwrap().scan(&evidence);
    for id in ["international_law/025", "sociology/013"] {
        let at = items.iter().position(|i| i.id == id).unwrap();
        assert_eq!(options[at].as_ref().unwrap().score, 1.0, "{id}");
    }
    let features = combine::features(&evidence, &detectors);
    let combined = combine::out_of_fold(&features, &faulty, &combine::folds(&items)).unwrap();
    for detector in &detectors[3..] {
        println!("{}: {:?}", detector.name(), quality(&faulty, &detect::scores(&detector.scan(&evidence))));
    }
    println!("combined: {:?}", quality(&faulty, &combined.scores).unwrap());
    let subjects: Vec<u32> =
        items.iter().map(|i| items.iter().position(|o| o.subject == i.subject).unwrap() as u32).collect();
    println!("gain: {:?}", combine::difference(&faulty, &combined.scores, &margin, &subjects).unwrap());
}

#[test]
fn what_was_exported_is_read_again() {
    let Some(path) = data("redux_csv/mmlu_moral_scenarios.csv") else { return };
    let rows = labels::read(&path).unwrap().rows;
    let text = meden_eval::audit::export::redux_csv(&rows.iter().collect::<Vec<_>>());
    let folder = std::env::temp_dir().join(format!("meden-audit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("mmlu_moral_scenarios.csv");
    std::fs::write(&file, &text).unwrap();
    let again = labels::read(&file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(again.notes.is_empty());
    assert_eq!(again.rows.len(), 100);
    for (a, b) in rows.iter().zip(&again.rows) {
        assert_eq!((&a.item, a.label, &a.correction), (&b.item, b.label, &b.correction));
        assert_eq!(a.raw[1..], b.raw[1..]);
    }
    let twice = meden_eval::audit::export::redux_csv(&again.rows.iter().collect::<Vec<_>>());
    assert_eq!(text, twice);
}

#[test]
fn planted_faults_are_found_and_clean_items_are_left_alone() {
    let Some(path) = data("arc/ARC-Challenge-Test.jsonl") else { return };
    let clean = choice::read(&path).unwrap().items;
    let mut items = clean.clone();
    let planted: Vec<usize> = (0..items.len()).step_by(10).collect();
    for &i in &planted {
        let other = (items[i].answer + 1) % items[i].choices.len();
        items[i].choices[other] = items[i].choices[items[i].answer].clone();
    }
    let detectors = detect::all();
    let options = detectors.iter().find(|d| d.name() == "options").unwrap();
    let flagged = |items: &[Item]| -> Vec<usize> {
        let found = options.scan(&Evidence::new(items, None));
        (0..items.len()).filter(|&i| found[i].as_ref().is_some_and(|f| f.score >= 0.8)).collect()
    };
    assert!(flagged(&clean).is_empty());
    assert_eq!(flagged(&items), planted);

    // a copy with another key at the end: both ends of every pair, and nothing else, at the highest score
    let mut items = clean.clone();
    for &i in &planted {
        let mut copy = clean[i].clone();
        copy.answer = (copy.answer + 1) % copy.choices.len();
        items.push(copy);
    }
    let found = detectors.iter().find(|d| d.name() == "duplicate").unwrap().scan(&Evidence::new(&items, None));
    let certain: Vec<usize> = (0..items.len()).filter(|&i| found[i].as_ref().is_some_and(|f| f.score == 1.0)).collect();
    let expected: Vec<usize> = planted.iter().copied().chain(clean.len()..items.len()).collect();
    assert_eq!(certain, expected);
}
