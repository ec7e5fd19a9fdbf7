//! Attention patterns: how much each query reads of each key, head by head, and what kind of head that makes it.
//!
//! Patterns are computed from the queries and keys as they meet (`q_rot`, `k_rot`), in f64, with the scale, soft cap and
//! window of the layer.

use meden_engine::{Control, Session, Site};
use serde::Serialize;

use crate::capture::{Captured, Selection, capture};
use crate::error::LensError;
use crate::place::{Place, Positions};

/// Queries and keys of some layers of a prompt.
pub struct Attention {
    captured: Captured,
    layers: Vec<usize>,
    ids: Vec<u32>,
    shape: Shape,
    windows: Vec<Option<u32>>,
}

#[derive(Clone, Copy)]
struct Shape {
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    softcap: Option<f64>,
}

/// What kind a head is, each measure a mean over the queries from the second on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadKind {
    /// Layer.
    pub layer: usize,
    /// Query head.
    pub head: usize,
    /// Entropy of the row, in nats.
    pub entropy: f64,
    /// Share on the first token: a sink.
    pub first: f64,
    /// Share on the token itself.
    pub this: f64,
    /// Share on the token before.
    pub previous: f64,
    /// Share on earlier tokens with the query's id; a mean over queries whose token has been there. Not a number where
    /// none has.
    pub duplicate: f64,
    /// Share on tokens that follow an earlier token with the query's id (Olsson et al. 2022); as `duplicate`.
    pub induction: f64,
    /// Mean distance to what is read, in tokens.
    pub distance: f64,
    /// Share on the span that was asked about; not a number where none was.
    pub span: f64,
}

impl Attention {
    /// Reads a prompt with an empty session; memory is (q + k) x tokens x 4 bytes a layer.
    ///
    /// # Errors
    /// A session that has read something (its keys are in the cache, not in the prompt), what [`capture`] refuses.
    pub fn read(
        session: &Session,
        ids: &[u32],
        layers: &[usize],
        control: &mut Control<'_>,
    ) -> Result<Attention, LensError> {
        if session.seen() > 0 {
            return Err(LensError::setting(
                "session",
                format!("{} tokens", session.seen()),
                "patterns are of a whole prompt: begin with an empty session",
            ));
        }
        let c = session.model().config();
        let places = layers.iter().flat_map(|&l| [Place::new(Site::QRot, l), Place::new(Site::KRot, l)]);
        let selection = Selection::new(places.collect(), Positions::All);
        let captured = capture(session, &[ids.to_vec()], &selection, control)?;
        Ok(Attention {
            captured,
            layers: layers.to_vec(),
            ids: ids.to_vec(),
            shape: Shape {
                q_heads: c.q_heads,
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                scale: f64::from(c.attention_scale),
                softcap: c.attention_softcap.map(f64::from),
            },
            windows: layers.iter().map(|&l| c.attention[l].window).collect(),
        })
    }

    /// Layers that were read.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// Query heads of a layer.
    pub fn heads(&self) -> usize {
        self.shape.q_heads
    }

    /// The pattern of a head, `(tokens, tokens)`: each row sums to 1, and is zero behind its query and outside the window.
    /// `None` for a layer that was not read or a head that does not exist.
    pub fn pattern(&self, layer: usize, head: usize) -> Option<Vec<f32>> {
        let Shape { q_heads, kv_heads, head_dim, scale, softcap } = self.shape;
        let window = self.windows[self.layers.iter().position(|&l| l == layer)?];
        if head >= q_heads {
            return None;
        }
        let (q, k) = (
            self.captured.matrix(Place::new(Site::QRot, layer))?,
            self.captured.matrix(Place::new(Site::KRot, layer))?,
        );
        let kv = head / (q_heads / kv_heads);
        let query_row = |token: usize| &q[(token * q_heads + head) * head_dim..][..head_dim];
        let key_row = |token: usize| &k[(token * kv_heads + kv) * head_dim..][..head_dim];
        let tokens = self.ids.len();
        let mut pattern = vec![0f32; tokens * tokens];
        let mut scores = Vec::with_capacity(tokens);
        for query in 0..tokens {
            let first = window.map_or(0, |w| (query + 1).saturating_sub(w as usize));
            scores.clear();
            for key in first..=query {
                let products = query_row(query).iter().zip(key_row(key)).map(|(&q, &k)| f64::from(q) * f64::from(k));
                let dot: f64 = products.sum();
                let score = dot * scale;
                scores.push(softcap.map_or(score, |cap| cap * (score / cap).tanh()));
            }
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                pattern[query * tokens + first + key] = ((score - top).exp() / sum) as f32;
            }
        }
        Some(pattern)
    }

    /// What kind of head it is; `span` is a run of positions whose share is wanted too. `None` as for
    /// [`pattern`](Attention::pattern).
    pub fn kind(&self, layer: usize, head: usize, span: Option<(usize, usize)>) -> Option<HeadKind> {
        let pattern = self.pattern(layer, head)?;
        let tokens = self.ids.len();
        let mut means = [0f64; 6];
        let mut repeats = [0f64; 2];
        let mut repeated = 0usize;
        for query in 1..tokens {
            let row = &pattern[query * tokens..(query + 1) * tokens];
            let at = |key: usize| f64::from(row[key]);
            let term = |&p: &f32| if p > 0.0 { -f64::from(p) * f64::from(p).ln() } else { 0.0 };
            let far = |(key, &p): (usize, &f32)| f64::from(p) * query.saturating_sub(key) as f64;
            let share = |(from, to): (usize, usize)| (from..=to.min(query)).map(at).sum::<f64>();
            let values = [
                row.iter().map(term).sum(),
                at(0),
                at(query),
                at(query - 1),
                row.iter().enumerate().map(far).sum(),
                span.map_or(f64::NAN, share),
            ];
            means.iter_mut().zip(values).for_each(|(mean, value)| *mean += value);
            let earlier: Vec<usize> = (0..query).filter(|&key| self.ids[key] == self.ids[query]).collect();
            if !earlier.is_empty() {
                repeated += 1;
                repeats[0] += earlier.iter().map(|&key| at(key)).sum::<f64>();
                // the token itself, where it follows its like, is not what comes behind an earlier one
                repeats[1] += earlier.iter().filter(|&&key| key + 1 < query).map(|&key| at(key + 1)).sum::<f64>();
            }
        }
        let queries = tokens.saturating_sub(1) as f64;
        let [entropy, first, this, previous, distance, span] = means.map(|sum| sum / queries);
        let [duplicate, induction] = repeats.map(|sum| sum / repeated as f64);
        Some(HeadKind { layer, head, entropy, first, this, previous, duplicate, induction, distance, span })
    }
}
