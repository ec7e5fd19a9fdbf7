//! Look at, or change, what flows through a model.
//!
//! A [`Hook`] names the sites it wants; at each of them it is handed the rows of the residual stream (or of the
//! block's inner activations) and may edit them in place. The plan is compiled once a call, so a site that nobody
//! wants costs nothing, and a hook that changes nothing leaves the logits bit-identical.

use std::ops::Range;

use crate::error::EngineError;
use crate::model::config::Config;

/// A named place in the forward pass. Names are the field's (TransformerLens writes `hook_resid_pre`, here
/// `resid_pre`); `meden-lens` reads those of other tools too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Residual stream entering the block. Rows are `hidden` wide.
    ResidPre,
    /// What attention reads: the stream after the block's first norm, its gain included. `hidden` wide.
    AttnNorm,
    /// Queries as the projection gives them, with its bias, before norm and rotation. `q_heads * head_dim` wide.
    Q,
    /// Keys as the projection gives them, before norm and rotation. `kv_heads * head_dim` wide.
    K,
    /// Values as the projection gives them and as they enter the cache. `kv_heads * head_dim` wide.
    V,
    /// Queries after norm and rotation, `q_heads * head_dim` wide.
    QRot,
    /// Keys after norm and rotation, before they enter the cache, `kv_heads * head_dim` wide.
    KRot,
    /// Input of the attention's output projection, `q_heads * head_dim` wide.
    Z,
    /// What attention adds to the stream (after a post-sublayer norm where the family has one), `hidden` wide.
    AttnOut,
    /// Residual stream between attention and feed-forward, `hidden` wide.
    ResidMid,
    /// What the feed-forward reads: the stream after the block's second norm, its gain included. `hidden` wide.
    MlpNorm,
    /// Gate of the feed-forward before the activation, `intermediate` wide.
    MlpGate,
    /// What the activated gate is multiplied with, `intermediate` wide.
    MlpUp,
    /// Input of the feed-forward's down projection, `intermediate` wide.
    MlpAct,
    /// What the feed-forward adds to the stream (after a post-sublayer norm where the family has one), `hidden` wide.
    MlpOut,
    /// Residual stream leaving the block, `hidden` wide.
    ResidPost,
    /// The last residual stream after the final norm, `hidden` wide; only rows whose logits are computed. Its layer is the number of layers.
    FinalNorm,
    /// Logits after the final soft cap, `vocab` wide; only rows that are computed. Its layer is the number of layers.
    Logits,
}

impl Site {
    /// Every site, in the order the data flows.
    pub const ALL: [Site; 18] = [
        Site::ResidPre,
        Site::AttnNorm,
        Site::Q,
        Site::K,
        Site::V,
        Site::QRot,
        Site::KRot,
        Site::Z,
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpNorm,
        Site::MlpGate,
        Site::MlpUp,
        Site::MlpAct,
        Site::MlpOut,
        Site::ResidPost,
        Site::FinalNorm,
        Site::Logits,
    ];

    /// The name used in files, flags and tensors.
    pub fn name(self) -> &'static str {
        match self {
            Site::ResidPre => "resid_pre",
            Site::AttnNorm => "attn_norm",
            Site::Q => "q",
            Site::K => "k",
            Site::V => "v",
            Site::QRot => "q_rot",
            Site::KRot => "k_rot",
            Site::Z => "z",
            Site::AttnOut => "attn_out",
            Site::ResidMid => "resid_mid",
            Site::MlpNorm => "mlp_norm",
            Site::MlpGate => "mlp_gate",
            Site::MlpUp => "mlp_up",
            Site::MlpAct => "mlp_act",
            Site::MlpOut => "mlp_out",
            Site::ResidPost => "resid_post",
            Site::FinalNorm => "final_norm",
            Site::Logits => "logits",
        }
    }

    /// Sites that exist once a model, not once a layer.
    pub fn is_global(self) -> bool {
        matches!(self, Site::FinalNorm | Site::Logits)
    }

    /// Values of a row in a model.
    pub fn width(self, config: &Config) -> usize {
        match self {
            Site::Q | Site::QRot | Site::Z => config.q_heads * config.head_dim,
            Site::K | Site::V | Site::KRot => config.kv_heads * config.head_dim,
            Site::MlpGate | Site::MlpUp | Site::MlpAct => config.intermediate,
            Site::Logits => config.vocab,
            _ => config.hidden,
        }
    }

    /// Heads that lie side by side in a row; `None` where a row is not made of heads.
    pub fn heads(self, config: &Config) -> Option<usize> {
        match self {
            Site::Q | Site::QRot | Site::Z => Some(config.q_heads),
            Site::K | Site::V | Site::KRot => Some(config.kv_heads),
            _ => None,
        }
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Site {
    type Err = EngineError;
    fn from_str(name: &str) -> Result<Self, EngineError> {
        let bare = name.strip_prefix("hook_").unwrap_or(name);
        Site::ALL.into_iter().find(|s| s.name() == bare).ok_or_else(|| EngineError::Setting {
            field: "site",
            value: name.to_string(),
            allowed: format!("one of {}", Site::ALL.map(Site::name).join(", ")),
        })
    }
}

/// One visit: where in the model, which tokens, and their rows.
pub struct SiteVisit<'a> {
    /// The place.
    pub site: Site,
    /// Layer, counted from 0 (the number of layers for global sites).
    pub layer: usize,
    /// Original positions of the rows.
    pub positions: &'a [u32],
    /// The rows, `(positions.len(), width)`, row-major. Edits take effect downstream.
    pub rows: &'a mut [f32],
    /// Width of a row.
    pub width: usize,
}

/// Something that looks at, or edits, activations during a forward pass.
pub trait Hook {
    /// Name for error messages.
    fn name(&self) -> &str;
    /// Does this hook want the site at the layer (the number of layers for global sites)? Asked once a call for each place.
    fn wants(&self, site: Site, layer: usize) -> bool;
    /// Called at each wanted place, in the order of the data, once a prefill chunk.
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError>;
}

/// Which hooks want which place; compiled anew for each call, in memory that is kept.
#[derive(Default)]
pub(crate) struct HookPlan {
    /// `((layers + 1) * sites, hooks)`; empty when there are no hooks.
    wanted: Vec<bool>,
    /// One a hook.
    fired: Vec<bool>,
    /// Layers that a pass runs.
    depth: usize,
    /// Rows of the pass that each hook is shown, and those of them whose logits are computed; empty where each hook is
    /// shown all.
    spans: Vec<Spans>,
    /// Number of the first row that the global sites show next, among those whose logits are computed.
    first_wanted: usize,
}

/// Rows of one hook's session in a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    /// Among all rows.
    pub(crate) rows: Range<usize>,
    /// Among the rows whose logits are computed.
    pub(crate) wanted: Range<usize>,
}

impl HookPlan {
    /// Ask each hook what it wants of a model with `layers` layers. A hook that wants nothing is refused.
    pub(crate) fn compile(&mut self, hooks: &[&mut dyn Hook], layers: usize) -> Result<(), EngineError> {
        self.wanted.clear();
        self.fired.clear();
        self.depth = layers;
        self.spans.clear();
        self.wanted.resize((layers + 1) * Site::ALL.len() * hooks.len(), false);
        self.fired.resize(hooks.len(), false);
        for (number, hook) in hooks.iter().enumerate() {
            let mut any = false;
            for site in Site::ALL {
                let places = if site.is_global() { layers..layers + 1 } else { 0..layers };
                for layer in places {
                    if hook.wants(site, layer) {
                        self.wanted[place(site, layer) * hooks.len() + number] = true;
                        any = true;
                    }
                }
            }
            if !any {
                return Err(EngineError::Hook {
                    hook: hook.name().to_string(),
                    why: format!("it wants no site of this model, which has layers 0 to {}", layers - 1),
                });
            }
        }
        Ok(())
    }

    /// Show each hook the rows of its own session alone, from the next pass on; one a hook.
    pub(crate) fn show(&mut self, spans: impl Iterator<Item = Spans>) {
        self.spans.clear();
        self.spans.extend(spans);
    }

    /// Logits come in pieces: the next one begins with this row of those that are wanted.
    pub(crate) fn logits_from(&mut self, first: usize) {
        self.first_wanted = first;
    }

    /// Rows of a place that a hook is shown, of so many that are there.
    fn span(&self, hook: usize, site: Site, rows: usize) -> Range<usize> {
        let Some(spans) = self.spans.get(hook) else { return 0..rows };
        if !site.is_global() {
            return spans.rows.clone();
        }
        let own = |row: usize| row.saturating_sub(self.first_wanted).min(rows);
        own(spans.wanted.start)..own(spans.wanted.end)
    }

    /// Let passes end behind the last layer that a hook wants.
    pub(crate) fn stop_early(&mut self) {
        let a_layer = Site::ALL.len() * self.fired.len();
        let last = self.wanted.iter().rposition(|wanted| *wanted).map_or(0, |at| at / a_layer.max(1));
        self.depth = self.depth.min(last + 1);
    }

    /// Layers that a pass runs; logits come only after all of them.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Does anyone want this place?
    pub(crate) fn wants(&self, site: Site, layer: usize) -> bool {
        let hooks = self.fired.len();
        self.wanted[place(site, layer) * hooks..][..hooks].contains(&true)
    }

    /// Show the rows to every hook that wants this place.
    pub(crate) fn visit(
        &mut self,
        hooks: &mut [&mut dyn Hook],
        (site, layer): (Site, usize),
        positions: &[u32],
        rows: &mut [f32],
    ) -> Result<(), EngineError> {
        if positions.is_empty() {
            return Ok(());
        }
        let width = rows.len() / positions.len();
        let wanted = place(site, layer) * hooks.len();
        for (number, hook) in hooks.iter_mut().enumerate() {
            let span = self.span(number, site, positions.len());
            if !self.wanted[wanted + number] || span.is_empty() {
                continue;
            }
            self.fired[number] = true;
            let own = &mut rows[span.start * width..span.end * width];
            hook.visit(SiteVisit { site, layer, positions: &positions[span], rows: own, width })?;
        }
        Ok(())
    }

    /// A hook that no row ever reached is an error: its silence would look like a result.
    pub(crate) fn check_fired(&self, hooks: &[&mut dyn Hook]) -> Result<(), EngineError> {
        match self.fired.iter().position(|fired| !fired) {
            None => Ok(()),
            Some(number) => Err(EngineError::Hook {
                hook: hooks[number].name().to_string(),
                why: "none of the sites it wants was computed in this call (logits are only computed for the rows asked for)"
                    .to_string(),
            }),
        }
    }
}

fn place(site: Site, layer: usize) -> usize {
    layer * Site::ALL.len() + site as usize
}
