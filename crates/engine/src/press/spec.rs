//! The presses as data: one enum, tagged by `kind`, the same in files, flags and over HTTP. How it is written in flags is
//! in [`written`](super::written).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::registry::{self, PressInfo};
use super::{Press, own, score, wrap};
use crate::error::EngineError;

/// One tensor of a safetensors file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRef {
    /// The file.
    pub file: PathBuf,
    /// Name of the tensor.
    pub tensor: String,
}

/// Every press with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PressSpec {
    /// Keep the keys of lowest L2 norm (arXiv 2406.11430).
    Knorm(score::knorm::Knorm),
    /// Keep the keys of highest L2 norm: a control, expected to be bad.
    KnormHigh(score::knorm_high::KnormHigh),
    /// Keep at random: a control.
    Random(score::random::Random),
    /// Keep the first tokens and the newest (arXiv 2309.17453).
    StreamingLlm(score::streaming_llm::StreamingLlm),
    /// Keep keys unlike the mean key (arXiv 2504.15364).
    Keydiff(score::keydiff::KeyDiff),
    /// Keep what spreads wide relative to the next partition (arXiv 2504.04704).
    Lagkv(score::lagkv::LagKv),
    /// Keep where local key and value energy is high (arXiv 2509.15038).
    Cur(score::cur::Cur),
    /// Keep what the last queries attend to (arXiv 2404.14469).
    Snapkv(score::snapkv::SnapKv),
    /// Keep what the last query attends to (arXiv 2401.06104).
    Tova(score::tova::Tova),
    /// Keep what received most attention per query (arXiv 2306.14048, as kvpress has it).
    ObservedAttention(score::observed_attention::ObservedAttention),
    /// Heavy hitters and the newest, half each (arXiv 2306.14048).
    H2o(score::h2o::H2o),
    /// Keep what Gaussian future queries will attend to (arXiv 2510.00636).
    ExpectedAttention(score::expected_attention::ExpectedAttention),
    /// Keep keys of high leverage (arXiv 2507.08143).
    LeverageScore(score::leverage_score::LeverageScore),
    /// Keep what its own chunk attends to (arXiv 2507.08143).
    NonCausalAttention(score::non_causal_attention::NonCausalAttention),
    /// Leverage and chunk attention, blended (arXiv 2507.08143).
    Compactor(score::compactor::Compactor),
    /// SnapKV with budgets that shrink with depth (arXiv 2406.02069).
    Pyramidkv(score::pyramidkv::PyramidKv),
    /// Keep what repeating the text needs (arXiv 2505.23416).
    Kvzip(own::kvzip::KvZip),
    /// Keep what a second reading attends to (arXiv 2509.05165).
    Kvcompose(own::kvcompose::KvCompose),
    /// Keep what trained gates expect kvzip to keep (arXiv 2601.17668).
    FastKvzip(own::fast_kvzip::FastKvZip),
    /// Keep what the outputs of the last queries would miss most (openreview MqfNzH3TVH).
    Dropkv(score::dropkv::DropKv),
    /// Keep what is attended to and not said again later (arXiv 2505.24133).
    RKv(score::r_kv::RKv),
    /// Keep the newest and what they attend to (arXiv 2503.00979).
    Morphkv(score::morphkv::MorphKv),
    /// Keep what queries to come will meet, by frequency (arXiv 2604.04921).
    Triattention(score::triattention::TriAttention),
    /// Keep values of high leverage, weighted by the mean query (arXiv 2604.25975).
    Cap(score::cap::Cap),
    /// Keep keys along the queries' main direction, from a file (arXiv 2503.02812).
    Qfilter(score::qfilter::QFilter),
    /// Expected attention with moments from a file (arXiv 2510.00636).
    ExpectedAttentionStats(score::expected_attention_stats::ExpectedAttentionStats),
    /// Keep what a small trained net expects kvzip+ to keep (arXiv 2601.07891).
    Kvzap(score::kvzap::KvZap),
    /// One pool of slots for the heads of a layer (arXiv 2407.11550).
    Adakv(wrap::adakv::AdaKv),
    /// One pool of slots for all layers and heads.
    Pooled(wrap::pooled::Pooled),
    /// Half by score, half weighted by the projected value (arXiv 2502.03805).
    Criticalkv(wrap::criticalkv::CriticalKv),
    /// Counts of AdaKV, choice of CriticalKV (arXiv 2502.03805).
    Criticaladakv(wrap::criticaladakv::CriticalAdaKv),
    /// The same share of every chunk.
    Chunk(wrap::chunk::Chunk),
    /// Chunks stay or go whole (arXiv 2502.00299).
    Chunkkv(wrap::chunkkv::ChunkKv),
    /// Choose again after each block (arXiv 2504.15364).
    Block(wrap::block::Block),
    /// Rotate what stays to positions 0, 1, ….
    KeyRerotation(wrap::key_rerotation::KeyRerotation),
    /// What scores below a threshold goes once it is older than a window (arXiv 2506.05345).
    Dms(wrap::dms::Dms),
    /// Lazy layers keep their first and newest tokens (arXiv 2410.13846).
    Simlayerkv(own::simlayerkv::SimLayerKv),
    /// Streaming heads keep their first and newest tokens, as a file says (arXiv 2410.10819).
    DuoAttention(own::duo_attention::DuoAttention),
    /// Evicted values are merged into the most similar that stays (arXiv 2406.13035).
    Merging(wrap::merging::Merging),
    /// Evicted values are spread over the slots after them, at random (CaM, ICML 2024).
    Cam(wrap::cam::Cam),
    /// Keep what the question at the end attends to (TACL 2024).
    Finch(own::finch::Finch),
    /// A ratio of its own for each layer.
    PerLayer(wrap::per_layer::PerLayer),
    /// One press after the other.
    Composed(wrap::composed::Composed),
    /// Keep rates of every head from a file (arXiv 2602.08585).
    Lukv(wrap::lukv::LuKv),
    /// Chunks stay whole, or only their best tokens where few matter (arXiv 2502.00299).
    EntropyChunkkv(wrap::entropy_chunkkv::EntropyChunkKv),
    /// Drop the channels of old keys that matter least (arXiv 2407.21018).
    Think(own::think::Think),
}

/// Calls `$call` with the parameters of whichever press it is.
macro_rules! of_each {
    ($spec:expr, $p:ident => $call:expr) => {
        match $spec {
            PressSpec::Knorm($p) => $call,
            PressSpec::KnormHigh($p) => $call,
            PressSpec::Random($p) => $call,
            PressSpec::StreamingLlm($p) => $call,
            PressSpec::Keydiff($p) => $call,
            PressSpec::Lagkv($p) => $call,
            PressSpec::Cur($p) => $call,
            PressSpec::Snapkv($p) => $call,
            PressSpec::Tova($p) => $call,
            PressSpec::ObservedAttention($p) => $call,
            PressSpec::H2o($p) => $call,
            PressSpec::ExpectedAttention($p) => $call,
            PressSpec::LeverageScore($p) => $call,
            PressSpec::NonCausalAttention($p) => $call,
            PressSpec::Compactor($p) => $call,
            PressSpec::Pyramidkv($p) => $call,
            PressSpec::Kvzip($p) => $call,
            PressSpec::Kvcompose($p) => $call,
            PressSpec::FastKvzip($p) => $call,
            PressSpec::Dropkv($p) => $call,
            PressSpec::RKv($p) => $call,
            PressSpec::Morphkv($p) => $call,
            PressSpec::Triattention($p) => $call,
            PressSpec::Cap($p) => $call,
            PressSpec::Qfilter($p) => $call,
            PressSpec::ExpectedAttentionStats($p) => $call,
            PressSpec::Kvzap($p) => $call,
            PressSpec::Adakv($p) => $call,
            PressSpec::Pooled($p) => $call,
            PressSpec::Criticalkv($p) => $call,
            PressSpec::Criticaladakv($p) => $call,
            PressSpec::Chunk($p) => $call,
            PressSpec::Chunkkv($p) => $call,
            PressSpec::Block($p) => $call,
            PressSpec::KeyRerotation($p) => $call,
            PressSpec::Dms($p) => $call,
            PressSpec::Simlayerkv($p) => $call,
            PressSpec::DuoAttention($p) => $call,
            PressSpec::Merging($p) => $call,
            PressSpec::Cam($p) => $call,
            PressSpec::Finch($p) => $call,
            PressSpec::PerLayer($p) => $call,
            PressSpec::Composed($p) => $call,
            PressSpec::Lukv($p) => $call,
            PressSpec::EntropyChunkkv($p) => $call,
            PressSpec::Think($p) => $call,
        }
    };
}

/// How parameters become a press: checked, files read.
pub(crate) trait Build {
    /// The press.
    ///
    /// Errors: a parameter out of range, a file that cannot be used.
    fn build(&self) -> Result<Arc<dyn Press>, EngineError>;

    /// The press inside, for wrappers.
    fn inner(&self) -> Option<&PressSpec> {
        None
    }

    /// The presses inside, for what holds several.
    fn parts(&self) -> &[PressSpec] {
        &[]
    }
}

/// A press whose parameters are the press itself, with nothing to check.
macro_rules! ready {
    ($press:ty) => {
        impl crate::press::spec::Build for $press {
            fn build(&self) -> Result<std::sync::Arc<dyn crate::press::Press>, crate::error::EngineError> {
                Ok(std::sync::Arc::new(self.clone()))
            }
        }
    };
}
pub(crate) use ready;

/// A parameter that a press cannot take.
pub(crate) fn bad(press: &str, field: &str, value: impl std::fmt::Display, allowed: &str) -> EngineError {
    EngineError::Press { press: press.to_string(), why: format!("parameter `{field}` is {value}, allowed: {allowed}") }
}

impl PressSpec {
    /// The default press.
    pub fn knorm() -> PressSpec {
        PressSpec::Knorm(score::knorm::Knorm {})
    }

    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        self.info().name
    }

    /// Its line in the registry.
    pub fn info(&self) -> &'static PressInfo {
        let kind = serde_json::to_value(self).ok();
        let name = kind.as_ref().and_then(|v| v["kind"].as_str()).unwrap_or_default();
        registry::find(name).unwrap_or(&registry::REGISTRY[0])
    }

    /// The press itself.
    ///
    /// Errors: a parameter out of range, a file that cannot be used.
    pub fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        of_each!(self, p => p.build())
    }

    /// The press inside a wrapper.
    pub fn inner(&self) -> Option<&PressSpec> {
        of_each!(self, p => p.inner())
    }

    /// The presses inside one that holds several.
    pub fn parts(&self) -> &[PressSpec] {
        of_each!(self, p => p.parts())
    }

    /// The press that scores, whatever wraps it.
    pub fn scorer(&self) -> &PressSpec {
        self.inner().map_or(self, PressSpec::scorer)
    }

    /// Numbers that it keeps beside each slot while it may act: attention mass, or a column of its own.
    pub(crate) fn columns(&self) -> usize {
        let own = |spec: &PressSpec| {
            matches!(
                spec.scorer(),
                PressSpec::NonCausalAttention(_)
                    | PressSpec::Compactor(_)
                    | PressSpec::Kvzap(_)
                    | PressSpec::FastKvzip(_)
            )
        };
        let columns = own(self) || self.parts().iter().any(own);
        usize::from(columns) + usize::from(self.build().is_ok_and(|p| p.needs().attention_mass))
    }

    /// A press with the parameters it has when nothing is said.
    pub fn by_name(name: &str) -> Option<PressSpec> {
        serde_json::from_value(serde_json::json!({ "kind": name })).ok()
    }
}
