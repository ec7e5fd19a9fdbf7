//! Scorers on recent queries and on moments of the queries, each against a scalar twin of its formula.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::twin::{Record, assert_close, dot, norm, rows, softmax};
use common::{ids, kept};
use meden_engine::{Config, KvTypes, Model, Policy, PressSpec, Session, SessionOptions};

const N: usize = 48;

/// A text read while everything the press needs is gathered, and what passed by.
fn read(model: &Arc<Model>, press: &str) -> (Session, Record) {
    let watch = vec![press.parse::<PressSpec>().unwrap()];
    let options = SessionOptions { kv_type: KvTypes::F32, prefill_chunk: 20, watch, ..Default::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    let record = Record::of(&mut session, &ids(N));
    (session, record)
}

fn policy(press: &str) -> Policy {
    Policy { sinks: 0, recents: 0, ..Policy::new(press.parse().unwrap(), "50%".parse().unwrap()) }
}

/// Compare every head's scores with those of a twin `(layer, kv head) -> scores`.
fn compare(
    model: &Arc<Model>,
    press: &str,
    slots: std::ops::Range<usize>,
    twin: impl Fn(&Session, &Record, usize, usize) -> Vec<f64>,
) {
    let (session, record) = read(model, press);
    for layer in 0..model.config().layers {
        let (scores, _) = session.press_scores(layer, &policy(press)).unwrap();
        for (head, row) in scores.rows().iter().enumerate() {
            let want = twin(&session, &record, layer, head);
            assert_close(row, &want, slots.clone(), &format!("{press}, layer {layer}, head {head}"));
        }
    }
}

fn keys(session: &Session, layer: usize, head: usize) -> Vec<Vec<f64>> {
    rows(session.cache().layers()[layer].heads()[head].keys(), session.model().config().head_dim)
}

fn values(session: &Session, layer: usize, head: usize) -> Vec<Vec<f64>> {
    rows(session.cache().layers()[layer].heads()[head].values(), session.model().config().head_dim)
}

fn logits(c: &Config, q: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    keys.iter().map(|k| dot(q, k) * f64::from(c.attention_scale)).collect()
}

/// Query heads of a kv head.
fn group(c: &Config, head: usize) -> std::ops::Range<usize> {
    let group = c.q_heads / c.kv_heads;
    head * group..(head + 1) * group
}

#[test]
fn dropkv_is_how_far_outputs_move_without_a_slot() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    compare(&model, "dropkv(window_size=6)", 0..N - 6, |session, record, layer, head| {
        let (keys, values) = (keys(session, layer, head), values(session, layer, head));
        let mut score = vec![0.0; N];
        for q_head in group(&c, head) {
            for i in N - 6..N {
                let p = softmax(&logits(&c, &record.q(&c, layer, i, q_head), &keys[..=i]));
                let read = |without: Option<usize>| -> Vec<f64> {
                    let left: f64 = p.iter().enumerate().filter(|(j, _)| Some(*j) != without).map(|(_, p)| p).sum();
                    let mut out = vec![0.0; c.head_dim];
                    for (j, p) in p.iter().enumerate().filter(|(j, _)| Some(*j) != without) {
                        out.iter_mut().zip(&values[j]).for_each(|(o, v)| *o += p / left * v);
                    }
                    out
                };
                let whole = read(None);
                for (j, score) in score[..=i].iter_mut().enumerate() {
                    // the definition, not the closed form: what is read without the slot
                    let moved: Vec<f64> = read(Some(j)).iter().zip(&whole).map(|(a, b)| a - b).collect();
                    *score += dot(&moved, &moved) / group(&c, head).len() as f64;
                }
            }
        }
        score
    });
}

#[test]
fn morphkv_fuses_the_votes_of_the_newest_by_sum_or_by_maximum() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    for (press, max) in [("morphkv(window_size=5)", false), ("morphkv(window_size=5, fusion=max)", true)] {
        compare(&model, press, 0..N - 5, |session, record, layer, head| {
            let keys = keys(session, layer, head);
            let mut score = vec![0f64; N];
            for q_head in group(&c, head) {
                for i in N - 5..N {
                    let p = softmax(&logits(&c, &record.q(&c, layer, i, q_head), &keys[..=i]));
                    score.iter_mut().zip(p).for_each(|(s, p)| *s = if max { s.max(p) } else { *s + p });
                }
            }
            score
        });
    }
}

#[test]
fn r_kv_weighs_importance_against_redundancy() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let (w, kernel, lambda, threshold) = (6, 5, 0.3, 0.2);
    let press = "r_kv(window_size=6, kernel_size=5, mix_lambda=0.3, threshold=0.2)";
    compare(&model, press, 0..N - w, |session, record, layer, head| {
        let keys = keys(session, layer, head);
        let old = N - w;
        let mut mean = vec![0.0; old];
        for i in old..N {
            let mut top = vec![f64::NEG_INFINITY; old];
            for q_head in group(&c, head) {
                let logits = logits(&c, &record.q(&c, layer, i, q_head), &keys[..old]);
                top.iter_mut().zip(logits).for_each(|(t, l)| *t = t.max(l));
            }
            mean.iter_mut().zip(softmax(&top)).for_each(|(m, a)| *m += a / w as f64);
        }
        let pooled = |j: usize| (0..old).filter(|i| i.abs_diff(j) <= kernel / 2).map(|i| mean[i]).fold(0.0, f64::max);
        let mut said = vec![0.0; N];
        for (i, a) in keys.iter().enumerate() {
            let mut cosines: Vec<f64> = keys.iter().map(|b| dot(a, b) / norm(a) / norm(b)).collect();
            cosines[i] = 0.0;
            if let Some(latest) = (0..N).rev().find(|&j| cosines[j] > threshold) {
                cosines[latest] = 0.0;
            }
            said.iter_mut().zip(&cosines).for_each(|(s, cos)| *s += cos / N as f64);
        }
        let redundancy = softmax(&said);
        (0..N).map(|j| if j < old { lambda * pooled(j) - (1.0 - lambda) * redundancy[j] } else { 0.0 }).collect()
    });
}

/// Angles of each pair of channels at a position, for the plain rotation of the tiny llama.
fn angles(c: &Config, position: f64) -> Vec<f64> {
    (0..c.head_dim / 2).map(|f| position * 10_000f64.powf(-2.0 * f as f64 / c.head_dim as f64)).collect()
}

/// A vector turned by some angles.
fn turn(x: &[f64], angles: &[f64]) -> Vec<f64> {
    let half = angles.len();
    let mut out = x.to_vec();
    for (f, angle) in angles.iter().enumerate() {
        out[f] = x[f] * angle.cos() - x[f + half] * angle.sin();
        out[f + half] = x[f + half] * angle.cos() + x[f] * angle.sin();
    }
    out
}

fn back(c: &Config, x: &[f64], position: usize) -> Vec<f64> {
    turn(x, &angles(c, -(position as f64)))
}

#[test]
fn triattention_is_the_trigonometric_series_of_the_paper() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let (half, powers) = (c.head_dim / 2, 6);
    compare(&model, "triattention(offset_powers=6)", 0..N, |session, record, layer, head| {
        let keys = keys(session, layer, head);
        let mut best = vec![f64::NEG_INFINITY; N];
        for q_head in group(&c, head) {
            let queries: Vec<Vec<f64>> = (0..N).map(|i| back(&c, &record.q(&c, layer, i, q_head), i)).collect();
            let mean = |of: &dyn Fn(&Vec<f64>) -> f64| queries.iter().map(of).sum::<f64>() / N as f64;
            let mut score = vec![0.0; N];
            for (p, score) in score.iter_mut().enumerate() {
                let k = back(&c, &keys[p], p);
                for f in 0..half {
                    let (re, im) = (mean(&|q| q[f]), mean(&|q| q[f + half]));
                    let magnitude = mean(&|q| q[f].hypot(q[f + half]));
                    let (q_size, k_size) = (re.hypot(im), k[f].hypot(k[f + half]));
                    let phase = im.atan2(re) - k[f + half].atan2(k[f]);
                    let frequency = angles(&c, 1.0)[f];
                    for power in 0..=powers {
                        let distance = (N - 1 - p) as f64 + f64::from(1 << power);
                        *score += q_size * k_size * (distance * frequency + phase).cos() / f64::from(powers + 1);
                    }
                    *score += (magnitude - q_size) * k_size;
                }
            }
            let mean = score.iter().sum::<f64>() / N as f64;
            let std = (score.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / N as f64).sqrt();
            best.iter_mut().zip(&score).for_each(|(b, s)| *b = b.max((s - mean) / std));
        }
        best
    });
}

#[test]
fn cap_is_the_weighted_leverage_of_the_values() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let (sinks, future, tau, epsilon) = (3, 20, 2.0, 0.01);
    let press = "cap(n_sink=3, n_future_positions=20, tau=2.0, epsilon=0.01)";
    compare(&model, press, sinks..N, |session, record, layer, head| {
        let (keys, values) = (keys(session, layer, head), values(session, layer, head));
        let d = c.head_dim;
        let mut score = vec![0.0; N];
        for q_head in group(&c, head) {
            let mut anchor = vec![0.0; d];
            for i in sinks..N {
                let q = back(&c, &record.q(&c, layer, i, q_head), i);
                for p in N..N + future {
                    let turned = turn(&q, &angles(&c, p as f64));
                    anchor.iter_mut().zip(turned).for_each(|(a, t)| *a += t / ((N - sinks) * future) as f64);
                }
            }
            let cosines: Vec<f64> = keys[sinks..].iter().map(|k| dot(&anchor, k) / norm(&anchor) / norm(k)).collect();
            let top = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = cosines.iter().map(|cos| (tau * (cos - top)).exp()).collect();
            let mut matrix = vec![vec![0.0; d]; d];
            for (i, row) in matrix.iter_mut().enumerate() {
                row[i] = 1.0;
                for (v, w) in values[sinks..].iter().zip(&weights) {
                    row.iter_mut().zip(v).for_each(|(m, vj)| *m += (w + epsilon) * v[i] * vj);
                }
            }
            for (j, (v, w)) in values[sinks..].iter().zip(&weights).enumerate() {
                score[sinks + j] += w * dot(v, &solve(&matrix, v)) / group(&c, head).len() as f64;
            }
        }
        score
    });
}

/// Gauss elimination with pivots.
fn solve(matrix: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
    let n = right.len();
    let mut rows: Vec<Vec<f64>> = matrix.iter().zip(right).map(|(r, b)| [r.as_slice(), &[*b]].concat()).collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs())).unwrap();
        rows.swap(i, pivot);
        for j in 0..n {
            if j != i {
                let factor = rows[j][i] / rows[i][i];
                let from = rows[i].clone();
                rows[j].iter_mut().zip(&from).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

#[test]
fn presses_on_recent_queries_bound_a_decoding_cache_and_keep_the_newest() {
    let Some(model) = common::tiny_once("llama") else { return };
    for press in ["dropkv(window_size=4)", "r_kv(window_size=4)", "morphkv(window_size=4)", "triattention", "cap"] {
        let policy = Policy {
            sinks: 2,
            recents: 3,
            schedule: "decode_every:5".parse().unwrap(),
            ..Policy::new(press.parse().unwrap(), "16".parse().unwrap())
        };
        let mut session = common::open(&model, Some(policy));
        let text = ids(70);
        for (done, id) in text.iter().enumerate() {
            common::run(&mut session, &[*id]);
            for head in kept(&session).iter().flatten() {
                assert!(head.len() < 16 + 5, "{press}: {} after {done}", head.len());
                assert_eq!(head.last().copied(), Some(done as u32));
                assert!(done < 2 || head.starts_with(&[0, 1]), "{press}: sinks");
            }
        }
        assert!(session.stats().evicted > 0, "{press}");
    }
}
