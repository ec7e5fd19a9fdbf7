//! Items that stand in the set twice, exactly or nearly.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Detector, Evidence, Finding};
use crate::choice::Item;

/// Words of a shingle.
const SHINGLE: usize = 5;
/// Bands of the min-hash signature, and hashes in each: pairs with Jaccard similarity 0.8 meet with probability 0.99.
const BANDS: u64 = 10;
const ROWS: u64 = 4;
/// Least Jaccard similarity of the shingles of near duplicates.
const NEAR: f64 = 0.8;

/// The detector.
pub struct Duplicate;

/// `text` with runs of white space as one blank. Case and punctuation stay: they are what tells items of genetics and of
/// formal logic apart.
pub fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn folded(item: &Item) -> String {
    let mut options: Vec<String> = item.choices.iter().map(|c| fold(c)).collect();
    options.sort();
    format!("{}\u{1}{}", fold(&item.question), options.join("\u{1}"))
}

/// Items with the same folded question and options, two or more together, by their indices.
pub fn groups(items: &[Item]) -> Vec<Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    items.iter().enumerate().for_each(|(i, item)| all.entry(folded(item)).or_default().push(i));
    all.into_values().filter(|g| g.len() > 1).collect()
}

impl Detector for Duplicate {
    fn name(&self) -> &'static str {
        "duplicate"
    }

    fn about(&self) -> &'static str {
        "the same item again, conflicting keys first; near copies by shingles of five words"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        let items = evidence.items;
        let key = |i: usize| fold(&items[i].choices[items[i].answer]);
        let mut out: Vec<Option<Finding>> = vec![None; items.len()];
        for group in groups(items) {
            for &i in &group {
                let other = group.iter().copied().find(|&j| j != i && key(j) != key(i));
                let twin = other.or_else(|| group.iter().copied().find(|&j| j != i));
                let Some(twin) = twin else { continue };
                let (score, what) =
                    if other.is_some() { (1.0, "with another key") } else { (0.6, "with the same key") };
                out[i] = Some(Finding { score, reason: format!("stands also at {} {what}", items[twin].id) });
            }
        }
        for (a, b, similarity) in near(items) {
            for (i, j) in [(a, b), (b, a)] {
                let reason = || format!("{:.0}% like {}", 100.0 * similarity, items[j].id);
                out[i].get_or_insert_with(|| Finding { score: 0.5 * similarity, reason: reason() });
            }
        }
        out
    }
}

fn shingles(item: &Item) -> HashSet<u64> {
    let text = folded(item);
    let words: Vec<&str> = text.split([' ', '\u{1}']).collect();
    let width = SHINGLE.min(words.len());
    words.windows(width.max(1)).map(|w| hash(w.join(" ").as_bytes())).collect()
}

/// FNV-1a with a final mix: stable over machines and versions.
fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    mix(folded)
}

/// The finaliser of MurmurHash3.
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Pairs of near duplicates with their similarity, in the order of their indices.
fn near(items: &[Item]) -> Vec<(usize, usize, f64)> {
    let sets: Vec<HashSet<u64>> = items.iter().map(shingles).collect();
    let mut pairs = HashSet::new();
    for band in 0..BANDS {
        let mut buckets: HashMap<Vec<u64>, Vec<usize>> = HashMap::new();
        for (i, set) in sets.iter().enumerate() {
            let least = |row: u64| set.iter().map(|s| mix(s ^ mix(1 + band * ROWS + row))).min().unwrap_or(0);
            buckets.entry((0..ROWS).map(least).collect()).or_default().push(i);
        }
        for bucket in buckets.values() {
            bucket.iter().enumerate().for_each(|(n, &b)| pairs.extend(bucket[..n].iter().map(|&a| (a, b))));
        }
    }
    let alike = |a: usize, b: usize| {
        let shared = sets[a].intersection(&sets[b]).count() as f64;
        shared / ((sets[a].len() + sets[b].len()) as f64 - shared)
    };
    let mut out: Vec<_> = pairs.into_iter().map(|(a, b)| (a, b, alike(a, b))).filter(|(_, _, s)| *s >= NEAR).collect();
    out.sort_by_key(|pair| (pair.0, pair.1));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(row: usize, question: &str, answer: usize) -> Item {
        let choices = ["one", "two", "three"].map(str::to_owned).to_vec();
        Item {
            id: format!("s/{row}"),
            subject: "s".into(),
            question: question.into(),
            choices,
            answer,
            right: vec![answer],
        }
    }

    #[test]
    fn copies_near_copies_and_conflicting_keys() {
        let long = "a b c d e f g h i j k l m n o p q r s t u v w x y z a1 b1 c1 d1 e1 f1 g1 h1";
        let near = format!("{long} i1");
        let items = [
            item(0, "Which  one?", 0),
            item(1, "Which one?", 0),
            item(2, "which one?", 0),
            item(3, "Where?", 0),
            item(4, "Where?", 2),
            item(5, long, 0),
            item(6, &near, 0),
        ];
        let found = Duplicate.scan(&Evidence::new(&items, None));
        let scores: Vec<Option<f64>> = found.iter().map(|f| f.as_ref().map(|f| f.score)).collect();
        assert_eq!(scores[..5], [Some(0.6), Some(0.6), None, Some(1.0), Some(1.0)]);
        assert!(scores[5].is_some_and(|s| (0.4..0.5).contains(&s)) && scores[5] == scores[6]);
    }
}
