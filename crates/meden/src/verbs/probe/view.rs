//! Figures of probes as people read them.

use meden_lens::probe::controls::Control;
use meden_lens::probe::{Estimate, Evaluation};
use meden_report::{Align, Table};

/// `0.81 [0.78, 0.84]`.
pub fn figure(e: &Estimate) -> String {
    format!("{:.3} [{:.3}, {:.3}]", e.value, e.low, e.high)
}

/// The figures of one evaluation.
pub fn evaluation(e: &Evaluation) -> String {
    let mut table = Table::new(["", ""]).align(1, Align::Left);
    let chance = e.auroc_of_shuffled_labels;
    let verdict = if e.is_chance() { ", as chance" } else { "" };
    table
        .row(["AUROC", &format!("{}{verdict}", figure(&e.auroc))])
        .row(["  of shuffled labels", &format!("{:.3} to {:.3}", chance.low, chance.high)])
        .row(["average precision", &figure(&e.average_precision)])
        .row(["AUPRC (trapezoid)", &figure(&e.auprc_trapezoid)])
        .row(["accuracy", &figure(&e.accuracy)])
        .row(["balanced accuracy", &figure(&e.balanced_accuracy)])
        .row(["rows, groups, share true", &format!("{}, {}, {:.3}", e.rows, e.groups, e.prevalence)]);
    table.to_string()
}

/// Controls beside each other.
pub fn controls(controls: &[Control]) -> String {
    let mut table = Table::new(["control", "AUROC", "shuffled labels", ""]).align(3, Align::Left);
    for c in controls {
        let chance = c.evaluation.auroc_of_shuffled_labels;
        let verdict = match c.passes {
            Some(true) => "as chance",
            Some(false) => "NOT as chance: the probe may read this",
            None => "a reference, no control",
        };
        let range = format!("{:.3} to {:.3}", chance.low, chance.high);
        table.row([c.kind.words(), &figure(&c.evaluation.auroc), &range, verdict]);
    }
    table.to_string()
}
