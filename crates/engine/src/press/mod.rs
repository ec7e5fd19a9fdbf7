//! Presses: which cached keys are worth keeping.
//!
//! Most presses only score: one number for each slot of a head, higher means keep (`score/`). Some decide by
//! themselves (`own/`), some wrap another press and change its scores, its counts or its keys (`wrap/`). How much
//! stays is a [`budget`], when it happens a [`schedule`](crate::press::policy::Schedule), and sinks and recent tokens
//! are protected by flags in [`select`], never by special scores.
//!
//! A press declares what it [`Needs`]; the engine gathers exactly that ([`watch`]) and hands it over in a
//! [`LayerView`].

pub mod attention;
pub mod budget;
pub(crate) mod data;
pub mod data_file;
pub mod linear;
pub mod own;
pub(crate) mod plan;
pub mod policy;
pub mod registry;
pub mod replay;
pub mod rotation;
pub mod score;
pub mod select;
pub mod spec;
pub(crate) mod trained;
pub mod view;
pub mod watch;
pub mod wrap;
mod written;

pub use registry::PressInfo;
pub use spec::PressSpec;
pub use view::{LayerView, Scores};
pub use watch::{LayerState, Piece};

use serde::Serialize;

use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use select::{Keep, Protect};

/// What a press reads. The engine computes and keeps nothing that no press asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// L2 norms of the keys (kept at append; free).
    pub key_norms: bool,
    /// Cached keys.
    pub keys: bool,
    /// Cached values.
    pub values: bool,
    /// The newest queries after rotation, this many.
    pub recent_queries: usize,
    /// Running mean of the queries before rotation.
    pub query_mean: bool,
    /// Running covariance of the queries before rotation.
    pub query_covariance: bool,
    /// First tokens left out of the mean and covariance ([`Moments::beyond`](watch::Moments::beyond)).
    pub moments_skip: usize,
    /// Attention mass received by each slot, summed over queries and averaged over a group.
    pub attention_mass: bool,
    /// What the attention block reads, after its input norm.
    pub hidden_states: bool,
    /// Slices of the attention's output projection.
    pub output_projection: bool,
    /// Trained or calibrated data from a file.
    pub data: bool,
    /// Further passes over the text after the prefill.
    pub replay: bool,
}

impl Needs {
    /// What two presses read together.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            key_norms: self.key_norms | other.key_norms,
            keys: self.keys | other.keys,
            values: self.values | other.values,
            recent_queries: self.recent_queries.max(other.recent_queries),
            query_mean: self.query_mean | other.query_mean,
            query_covariance: self.query_covariance | other.query_covariance,
            moments_skip: self.moments_skip.max(other.moments_skip),
            attention_mass: self.attention_mass | other.attention_mass,
            hidden_states: self.hidden_states | other.hidden_states,
            output_projection: self.output_projection | other.output_projection,
            data: self.data | other.data,
            replay: self.replay | other.replay,
        }
    }

    /// The needs in words, for tables; "nothing" where there are none.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        let mut add = |is: bool, word: &str| {
            if is {
                words.push(word.to_string());
            }
        };
        add(self.key_norms, "key norms");
        add(self.keys, "keys");
        add(self.values, "values");
        add(self.query_mean, "mean query");
        add(self.query_covariance, "query covariance");
        add(self.attention_mass, "attention mass");
        add(self.hidden_states, "hidden states");
        add(self.output_projection, "output projection");
        add(self.data, "data file");
        add(self.replay, "replay");
        if self.recent_queries > 0 {
            words.push(format!("last {} queries", self.recent_queries));
        }
        if words.is_empty() { "nothing".to_string() } else { words.join(", ") }
    }
}

/// How far the decision of a press reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One layer, as soon as that layer has read its tokens: the peak stays at the budget.
    #[default]
    Layer,
    /// All pressed layers together, once all have read their tokens.
    Cache,
}

/// Where a layer stands among those that a press acts on.
#[derive(Clone, Copy, Debug)]
pub struct LayerShare<'a> {
    /// The layer.
    pub layer: usize,
    /// The layers that the press acts on, ascending: not those that are skipped or slide.
    pub pressed: &'a [usize],
    /// Tokens that a share speaks of: the whole text where it is known, else the tokens seen.
    pub seen: usize,
    /// Slots a head of each layer, were all alike.
    pub mean: usize,
    /// The same before rounding: those tokens times the kept share, where the budget is a share.
    pub exact: f64,
    /// How a share becomes a number of slots.
    pub rounding: policy::Rounding,
}

/// A rule that decides what stays. Three methods are required; the others have defaults that suit a scorer.
pub trait Press: Send + Sync {
    /// The registered name.
    fn name(&self) -> &'static str;

    /// What it reads.
    fn needs(&self) -> Needs;

    /// Does it fit this model? Called when a policy is made ready for a model, before anything is read.
    ///
    /// Errors: data of another shape, a list of another length; with what would fit.
    fn check(&self, config: &Config) -> Result<(), EngineError> {
        let _ = config;
        Ok(())
    }

    /// Score each slot of each head, higher is kept longer. `scores` comes with one row a head, as long as the head,
    /// filled with zeros.
    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError>;

    /// Slots that stay whatever their score, when each head keeps `target` on average.
    fn protects(&self, target: usize) -> Protect {
        let _ = target;
        Protect::default()
    }

    /// Choose the slots that stay, with `protect` (the policy's and this press's own) forced.
    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        select::best(layer, scores, &layer.uniform(), protect)
    }

    /// Slots a head of this layer may hold; the mean over layers should be `share.mean`.
    fn layer_target(&self, share: LayerShare<'_>) -> usize {
        share.mean
    }

    /// Look at tokens that a layer has just read, before anything is evicted. `state` is this session's, for this
    /// layer; columns of the heads travel with their slots.
    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, state: &mut LayerState) -> Result<(), EngineError> {
        let _ = (piece, cache, state);
        Ok(())
    }

    /// For presses that need a replay: what is read again after the text, each on a fork of its own.
    ///
    /// Errors: no room in the model's context.
    fn readings(&self, text: &replay::Text<'_>) -> Result<Vec<replay::Reading>, EngineError> {
        let _ = text;
        Ok(Vec::new())
    }

    /// Look at tokens of a reading that a layer has just read. `cache` is the fork's; what is written into its columns
    /// `replay_key()/0`, `replay_key()/1`, … (one for each query head of a group) is carried back to the text's slots.
    fn observe_again(
        &self,
        reading: &replay::Reading,
        piece: &Piece<'_>,
        cache: &mut LayerCache,
    ) -> Result<(), EngineError> {
        let _ = (reading, piece, cache);
        Ok(())
    }

    /// Under which name the findings of a replay are kept; names everything they depend on.
    fn replay_key(&self) -> String {
        self.name().to_string()
    }

    /// Change what stays before the rest is dropped (merging).
    fn edit(&self, layer: &LayerView<'_>, keep: &Keep, edits: &mut Edits) -> Result<(), EngineError> {
        let _ = (layer, keep, edits);
        Ok(())
    }

    /// Channels that the keys of this layer keep, ascending, one list a head, all of one length; for presses that
    /// [narrow](Self::narrows_to) keys. Asked once the slots that go are gone.
    fn channels(&self, layer: &LayerView<'_>) -> Result<Option<Vec<Vec<u32>>>, EngineError> {
        let _ = layer;
        Ok(None)
    }

    /// For presses that take channels from keys: how many of `head_dim` are left.
    fn narrows_to(&self, head_dim: usize) -> Option<usize> {
        let _ = head_dim;
        None
    }

    /// Was its data made for this very model? Its shape has been held against the model's by `check`.
    ///
    /// Errors: data of another model or press.
    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        let _ = model;
        Ok(())
    }

    /// How far a decision reaches.
    fn scope(&self) -> Scope {
        Scope::Layer
    }

    /// For [`Scope::Cache`]: slots each head of each layer keeps, from everyone's scores. `counts[i][h]` comes filled
    /// with the uniform count of layer i.
    fn share_out(&self, layers: &[(LayerView<'_>, Scores)], counts: &mut [Vec<usize>]) -> Result<(), EngineError> {
        let _ = (layers, counts);
        Ok(())
    }

    /// Does it decide itself how much stays (a threshold, a choice of heads)? Then the budget has to be `press`.
    fn own_budget(&self) -> bool {
        false
    }

    /// Are kept keys rotated to new positions 0, 1, …, from which the next token goes on?
    fn renumbers(&self) -> bool {
        false
    }

    /// Why it cannot act in decode or in chunks, if it cannot.
    fn only_at_prefill_end(&self) -> Option<&'static str> {
        None
    }
}

/// New contents of slots that stay, by head.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// (head, slot, new value), before eviction.
    pub values: Vec<(usize, u32, Vec<f32>)>,
}
