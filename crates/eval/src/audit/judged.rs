//! How well yes-or-no judges of items do beside the annotators.

use std::collections::{BTreeMap, HashMap};

use meden_stats::agreement::{self, Weight};
use meden_stats::classify::Confusion;

use super::labels::{Label, Labelled};
use super::predictions::Predictions;

/// A judge beside the annotators.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Means over subjects of recall, F1 and F2, subjects without a value counted as 0, as the paper's tables do.
    pub macro_means: [f64; 3],
    /// Counts over all items.
    pub pooled: Confusion,
    /// Share of items on which it agrees with the annotators.
    pub agreement: Option<f64>,
    /// Cohen's kappa with the annotators.
    pub kappa: Option<f64>,
    /// Gwet's AC1 with the annotators.
    pub ac1: Option<f64>,
}

/// Judges of a table of verdicts, each anything but `ok` counting as a flag, with the line that flags every item at the
/// end.
pub fn judges(rows: &[Labelled], verdicts: &Predictions) -> Vec<Judged> {
    let known: HashMap<&str, &Labelled> = rows.iter().map(|r| (r.item.id.as_str(), r)).collect();
    let mut items: Vec<(&str, bool, &[String])> = verdicts
        .answers
        .iter()
        .filter_map(|(id, said)| {
            let row = known.get(id.as_str())?;
            Some((row.item.subject.as_str(), row.label != Label::Ok, said.as_slice()))
        })
        .collect();
    items.sort_by(|a, b| a.0.cmp(b.0));
    let judge = |name: &str, flags: &dyn Fn(&[String]) -> bool| {
        let said: Vec<(&str, bool, bool)> = items.iter().map(|(s, faulty, v)| (*s, *faulty, flags(v))).collect();
        one(name, &said)
    };
    let mut all: Vec<Judged> =
        verdicts.models.iter().enumerate().map(|(m, name)| judge(name, &|v: &[String]| v[m] != "ok")).collect();
    all.push(judge("flag everything", &|_| true));
    all
}

fn one(name: &str, said: &[(&str, bool, bool)]) -> Judged {
    let mut subjects: BTreeMap<&str, Confusion> = BTreeMap::new();
    let mut pooled = Confusion::default();
    for (subject, faulty, flag) in said {
        subjects.entry(subject).or_default().add(*faulty, *flag, 1.0);
        pooled.add(*faulty, *flag, 1.0);
    }
    let mean = |f: &dyn Fn(&Confusion) -> Option<f64>| {
        subjects.values().map(|c| f(c).unwrap_or(0.0)).sum::<f64>() / subjects.len().max(1) as f64
    };
    let column = |f: fn(&(&str, bool, bool)) -> bool| said.iter().map(|s| usize::from(f(s))).collect::<Vec<_>>();
    let (truth, flags) = (column(|s| s.1), column(|s| s.2));
    Judged {
        name: name.to_owned(),
        macro_means: [mean(&Confusion::recall), mean(&|c| c.f_beta(1.0)), mean(&|c| c.f_beta(2.0))],
        pooled,
        agreement: agreement::percent(&truth, &flags),
        kappa: agreement::cohen_kappa(&truth, &flags, 2, Weight::Nominal),
        ac1: agreement::table(&truth, &flags, 2).and_then(|t| agreement::gwet_ac1_table(&t)),
    }
}
