//! The registry for people and programs: every press by name, what it does, where it is published.

use serde::Serialize;

/// Which counts a press may make unequal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Adaptivity {
    /// Every head of every pressed layer keeps the same number.
    Uniform,
    /// Heads of a layer may differ.
    Heads,
    /// Layers may differ.
    Layers,
    /// Both may differ.
    LayersAndHeads,
    /// Tokens stay, channels of keys go.
    Channels,
}

/// What sort of press it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Scores slots.
    Scorer,
    /// Decides by its own logic.
    Own,
    /// Wraps another press.
    Wrapper,
    /// A control, expected to be bad.
    Control,
}

/// A line of the registry.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PressInfo {
    /// Name on the command line and in files.
    pub name: &'static str,
    /// What sort it is.
    pub sort: Sort,
    /// Which counts it may make unequal.
    pub adaptivity: Adaptivity,
    /// One line: the rule.
    pub rule: &'static str,
    /// Where it is published.
    pub paper: &'static str,
}

const fn line(
    name: &'static str,
    sort: Sort,
    adaptivity: Adaptivity,
    rule: &'static str,
    paper: &'static str,
) -> PressInfo {
    PressInfo { name, sort, adaptivity, rule, paper }
}

use Adaptivity::*;
use Sort::*;

/// Every press, in the order tables show them.
pub const REGISTRY: &[PressInfo] = &[
    line("knorm", Scorer, Uniform, "keep the keys of lowest L2 norm", "arXiv 2406.11430"),
    line("knorm_high", Control, Uniform, "keep the keys of highest L2 norm", "arXiv 2406.11430"),
    line("random", Control, Uniform, "keep at random", "-"),
    line("streaming_llm", Scorer, Uniform, "keep the first tokens and the newest", "arXiv 2309.17453"),
    line("keydiff", Scorer, Uniform, "keep keys unlike the mean key", "arXiv 2504.15364"),
    line("lagkv", Scorer, Uniform, "keep what spreads wide relative to the next partition", "arXiv 2504.04704"),
    line("cur", Scorer, Uniform, "keep where local key and value energy is high", "arXiv 2509.15038"),
    line("snapkv", Scorer, Uniform, "keep what the last queries attend to, pooled over neighbours", "arXiv 2404.14469"),
    line("tova", Scorer, Uniform, "keep what the last query attends to, one set for all heads", "arXiv 2401.06104"),
    line("observed_attention", Scorer, Uniform, "keep what received most attention per query", "arXiv 2306.14048"),
    line("h2o", Scorer, Uniform, "half of the budget to heavy hitters, half to the newest", "arXiv 2306.14048"),
    line("expected_attention", Scorer, Uniform, "keep what Gaussian future queries will attend to", "arXiv 2510.00636"),
    line(
        "leverage_score",
        Scorer,
        Uniform,
        "keep keys of high statistical leverage before rotation",
        "arXiv 2507.08143",
    ),
    line(
        "non_causal_attention",
        Scorer,
        Uniform,
        "keep what its own chunk attends to in both directions",
        "arXiv 2507.08143",
    ),
    line("compactor", Scorer, Uniform, "leverage and chunk attention, blended", "arXiv 2507.08143"),
    line("pyramidkv", Scorer, Layers, "snapkv with budgets that shrink with depth", "arXiv 2406.02069"),
    line("kvzip", Own, LayersAndHeads, "keep what repeating the text needs", "arXiv 2505.23416"),
    line("kvcompose", Own, LayersAndHeads, "keep what a second reading attends to", "arXiv 2509.05165"),
    line("fast_kvzip", Own, LayersAndHeads, "keep what trained gates expect kvzip to keep", "arXiv 2601.17668"),
    line(
        "dropkv",
        Scorer,
        Uniform,
        "keep what the outputs of the last queries would miss most",
        "openreview MqfNzH3TVH",
    ),
    line("r_kv", Scorer, Uniform, "keep what is attended to and not said again later", "arXiv 2505.24133"),
    line("morphkv", Scorer, Uniform, "keep the newest and what they attend to", "arXiv 2503.00979"),
    line("triattention", Scorer, Uniform, "keep what queries to come will meet, by frequency", "arXiv 2604.04921"),
    line("cap", Scorer, Uniform, "keep values of high leverage, weighted by the mean query", "arXiv 2604.25975"),
    line("qfilter", Scorer, Uniform, "keep keys along the queries' main direction, from a file", "arXiv 2503.02812"),
    line(
        "expected_attention_stats",
        Scorer,
        Uniform,
        "expected attention with moments from a file",
        "arXiv 2510.00636",
    ),
    line("kvzap", Scorer, Uniform, "keep what a small trained net expects kvzip+ to keep", "arXiv 2601.07891"),
    line("adakv", Wrapper, Heads, "one pool of slots for the heads of a layer", "arXiv 2407.11550"),
    line(
        "pooled",
        Wrapper,
        LayersAndHeads,
        "one pool of slots for all layers and heads",
        "arXiv 2407.11550, across layers",
    ),
    line("criticalkv", Wrapper, Uniform, "half by score, half weighted by the projected value", "arXiv 2502.03805"),
    line("criticaladakv", Wrapper, Heads, "counts of adakv, choice of criticalkv", "arXiv 2502.03805"),
    line("chunk", Wrapper, Uniform, "the same share of every chunk", "TACL 2024 (Finch)"),
    line("chunkkv", Wrapper, Uniform, "chunks stay or go whole", "arXiv 2502.00299"),
    line("block", Wrapper, Uniform, "choose again after each block", "arXiv 2504.15364"),
    line("key_rerotation", Wrapper, Uniform, "rotate what stays to positions 0, 1, …", "arXiv 2309.17453"),
    line(
        "dms",
        Wrapper,
        LayersAndHeads,
        "what scores below a threshold goes once it is older than a window",
        "arXiv 2506.05345",
    ),
    line(
        "simlayerkv",
        Own,
        Layers,
        "lazy layers keep the first and newest tokens, the others everything",
        "arXiv 2410.13846",
    ),
    line(
        "duo_attention",
        Own,
        LayersAndHeads,
        "streaming heads keep the first and newest tokens, the others everything",
        "arXiv 2410.10819",
    ),
    line(
        "merging",
        Wrapper,
        LayersAndHeads,
        "evicted values are merged into the most similar that stays",
        "arXiv 2406.13035",
    ),
    line("cam", Wrapper, Uniform, "evicted values are spread over the slots after them, at random", "ICML 2024 (CaM)"),
    line("finch", Own, Uniform, "keep what the question at the end of the prompt attends to", "TACL 2024 (Finch)"),
    line("per_layer", Wrapper, Layers, "a ratio of its own for each layer", "arXiv 2406.11430"),
    line("composed", Wrapper, LayersAndHeads, "one press after the other, each on what the one before left", "-"),
    line("lukv", Wrapper, LayersAndHeads, "keep rates of every head from a file", "arXiv 2602.08585"),
    line(
        "entropy_chunkkv",
        Wrapper,
        Uniform,
        "chunks stay whole, or only their best tokens where few matter",
        "arXiv 2502.00299",
    ),
    line("think", Own, Channels, "drop the channels of old keys that matter least; no token goes", "arXiv 2407.21018"),
];

/// The line of a name.
pub fn find(name: &str) -> Option<&'static PressInfo> {
    REGISTRY.iter().find(|info| info.name == name)
}
