//! One place, several names: those of this program, of TransformerLens, of Hugging Face modules and of pyvene.
//!
//! A name of a module stands for what the module puts out, `….input` for what it takes in. Where families disagree about
//! what a module's output means (gemma norms what a sublayer writes before it is added), a name is only taken where it
//! means the site: `attn_out` and `mlp_out` are always what is added to the stream.

use meden_engine::{Config, Site};
use serde::Serialize;

use super::Place;

/// How a place is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Here and in files.
    pub name: String,
    /// TransformerLens.
    pub transformer_lens: String,
    /// Module of Hugging Face transformers whose output (or, with `.input`, whose input) it is; none where no module
    /// has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<String>,
}

/// The names of a place in a model.
pub fn names(place: Place, config: &Config) -> Names {
    Names {
        name: place.to_string(),
        transformer_lens: transformer_lens(place),
        hugging_face: hugging_face(place, config),
    }
}

/// Names of a site without its layer.
pub(super) fn bare(site: Site) -> &'static [&'static str] {
    match site {
        Site::ResidPre => &["resid_pre", "hook_resid_pre", "block_input"],
        Site::AttnNorm => &["attn_norm", "attention_input"],
        Site::Q => &["q", "hook_q", "head_query_output"],
        Site::K => &["k", "hook_k", "head_key_output"],
        Site::V => &["v", "hook_v", "head_value_output"],
        Site::QRot => &["q_rot", "rot_q", "hook_rot_q"],
        Site::KRot => &["k_rot", "rot_k", "hook_rot_k"],
        Site::Z => &["z", "hook_z", "head_attention_value_output"],
        Site::AttnOut => &["attn_out", "hook_attn_out", "attention_output"],
        Site::ResidMid => &["resid_mid", "hook_resid_mid"],
        Site::MlpNorm => &["mlp_norm", "ffn_norm", "mlp_input"],
        Site::MlpGate => &["mlp_gate", "ffn_gate"],
        Site::MlpUp => &["mlp_up", "ffn_up"],
        Site::MlpAct => &["mlp_act", "ffn_act", "mlp_activation"],
        Site::MlpOut => &["mlp_out", "hook_mlp_out", "mlp_output"],
        Site::ResidPost => &["resid_post", "hook_resid_post", "block_output"],
        Site::FinalNorm => &["final_norm", "ln_final.hook_normalized", "model.norm"],
        Site::Logits => &["logits", "unembed.hook_out", "lm_head"],
    }
}

fn transformer_lens(place: Place) -> String {
    let local = match place.site {
        Site::ResidPre => "hook_resid_pre",
        Site::AttnNorm => "ln1.hook_normalized",
        Site::Q => "attn.hook_q",
        Site::K => "attn.hook_k",
        Site::V => "attn.hook_v",
        Site::QRot => "attn.hook_rot_q",
        Site::KRot => "attn.hook_rot_k",
        Site::Z => "attn.hook_z",
        Site::AttnOut => "hook_attn_out",
        Site::ResidMid => "hook_resid_mid",
        Site::MlpNorm => "ln2.hook_normalized",
        Site::MlpGate => "mlp.hook_pre",
        Site::MlpUp => "mlp.hook_pre_linear",
        Site::MlpAct => "mlp.hook_post",
        Site::MlpOut => "hook_mlp_out",
        Site::ResidPost => "hook_resid_post",
        Site::FinalNorm => return "ln_final.hook_normalized".into(),
        Site::Logits => return "unembed.hook_out".into(),
    };
    format!("blocks.{}.{local}", place.layer)
}

fn hugging_face(place: Place, config: &Config) -> Option<String> {
    let module = match (place.site, config.post_norms) {
        (Site::ResidPre, _) => "input",
        (Site::AttnNorm, _) => "input_layernorm",
        (Site::Q, _) => "self_attn.q_proj",
        (Site::K, _) => "self_attn.k_proj",
        (Site::V, _) => "self_attn.v_proj",
        (Site::Z, _) => "self_attn.o_proj.input",
        (Site::AttnOut, false) => "self_attn",
        (Site::AttnOut, true) | (Site::MlpNorm, false) => "post_attention_layernorm",
        (Site::MlpNorm, true) => "pre_feedforward_layernorm",
        (Site::MlpGate, _) => "mlp.gate_proj",
        (Site::MlpUp, _) => "mlp.up_proj",
        (Site::MlpAct, _) => "mlp.down_proj.input",
        (Site::MlpOut, false) => "mlp",
        (Site::MlpOut, true) => "post_feedforward_layernorm",
        (Site::ResidPost, _) => return Some(format!("model.layers.{}", place.layer)),
        (Site::FinalNorm, _) => return Some("model.norm".into()),
        (Site::Logits, _) => return Some("lm_head".into()),
        (Site::QRot | Site::KRot | Site::ResidMid, _) => return None,
    };
    Some(format!("model.layers.{}.{module}", place.layer))
}

/// Names with a layer in them, and those of places that exist once.
pub(super) fn full(place: Place, config: &Config) -> Vec<String> {
    let layer = place.layer;
    let mut all = vec![place.to_string(), transformer_lens(place)];
    if !place.site.is_global() {
        all.extend(bare(place.site).iter().map(|name| format!("blocks.{layer}.{name}")));
    }
    if let Some(module) = hugging_face(place, config) {
        all.extend(module.strip_prefix("model.").map(str::to_owned));
        all.push(module);
    }
    // hidden_states[i] of transformers: what enters block i; behind the last block, what has gone through the final norm
    match place.site {
        Site::ResidPre => all.push(format!("hidden_states.{layer}")),
        Site::FinalNorm => all.push(format!("hidden_states.{layer}")),
        _ => {}
    }
    if place == Place::new(Site::ResidPre, 0) {
        all.extend(["embed", "hook_embed", "model.embed_tokens", "embed_tokens"].map(str::to_owned));
    }
    all
}

/// What a user who wants something that is no site of this model may do; `None` for a name that nobody uses.
pub(super) fn elsewhere(name: &str, config: &Config) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("hook_").unwrap_or(last) {
        "pattern" | "attn_scores" | "scores" => {
            Some("attention is not a site of rows: see the attention patterns of the lens (`meden lens patterns`)")
        }
        "result" | "head_out" => Some(
            "what each head writes comes from z and the output projection: see attribution by head (`meden lens attribute --by head`)",
        ),
        "self_attn" | "mlp" if config.post_norms => Some(
            "this family norms what the module puts out before it is added: attn_out and mlp_out are what is added",
        ),
        "scale" => Some("the scale of a norm is not a site of rows; attn_norm, mlp_norm and final_norm are"),
        _ => None,
    }
}
