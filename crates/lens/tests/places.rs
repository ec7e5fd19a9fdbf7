//! Names and patterns.
#![allow(clippy::unwrap_used)]

mod common;

use common::{tiny, tiny_models};
use meden_engine::Site;
use meden_lens::place::{Layers, Place, names, places};

#[test]
fn every_place_is_found_under_each_of_its_names() {
    for (name, model) in tiny_models() {
        let config = model.config();
        for place in Place::all(config) {
            let known = names(place, config);
            for text in [Some(known.name), Some(known.transformer_lens), known.hugging_face].into_iter().flatten() {
                assert_eq!(places(&text, &Layers::all(), config).unwrap(), [place], "{name}: {text}");
            }
        }
    }
}

#[test]
fn patterns_mean_sets_of_places_in_the_order_of_the_data() {
    let Some(model) = tiny("llama") else { return };
    let config = model.config();
    let found = |sites: &str, layers: &str| -> Vec<String> {
        places(sites, &layers.parse().unwrap(), config).unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        found("resid_post,attn_out,logits", "1-2"),
        ["1.attn_out", "1.resid_post", "2.attn_out", "2.resid_post", "logits"]
    );
    assert_eq!(found("resid_*", "0"), ["0.resid_pre", "0.resid_mid", "0.resid_post"]);
    assert_eq!(found("blocks.*.hook_resid_post", "0,-1"), ["0.resid_post", "3.resid_post"]);
    assert_eq!(found("blocks.1.attn.hook_*", "all"), ["1.q", "1.k", "1.v", "1.q_rot", "1.k_rot", "1.z"]);
    assert_eq!(found("block_output,hook_z,ffn_act", "last"), ["3.z", "3.mlp_act", "3.resid_post"]);
    assert_eq!(
        found("model.layers.2.self_attn,hidden_states.2,hidden_states.4", "all"),
        ["2.resid_pre", "2.attn_out", "final_norm"]
    );
    assert_eq!(found("embed", "2"), ["0.resid_pre"]);
    assert_eq!(places("resid_post", &Layers::all(), config).unwrap().len(), config.layers);
}

#[test]
fn what_is_no_place_is_told_with_what_to_do() {
    let (Some(llama), Some(gemma)) = (tiny("llama"), tiny("gemma3")) else { return };
    let wrong = |sites: &str, layers: &str, model: &meden_engine::Model| -> String {
        let layers = match layers.parse::<Layers>() {
            Ok(layers) => layers,
            Err(error) => return error.to_string(),
        };
        places(sites, &layers, model.config()).unwrap_err().to_string()
    };
    assert!(wrong("resid_pots", "all", &llama).contains("resid_post"));
    assert!(wrong("9.resid_post", "all", &llama).contains("layers 0 to 3"));
    assert!(wrong("resid_post", "4", &llama).contains("layers 0 to 3"));
    assert!(wrong("3.resid_post", "0-1", &llama).contains("none of the layers"));
    assert!(wrong("resid_post", "3-1", &llama).contains("0-3"));
    assert!(wrong("resid_post", "x", &llama).contains("0-3"));
    assert!(wrong("blocks.0.attn.hook_pattern", "all", &llama).contains("patterns"));
    assert!(wrong("hook_result", "all", &llama).contains("attribute"));
    // the module's output is not what is added to the stream
    assert!(wrong("model.layers.0.self_attn", "all", &gemma).contains("attn_out"));
    let found = places("model.layers.0.post_attention_layernorm", &Layers::all(), gemma.config()).unwrap();
    assert_eq!(found, [Place::new(Site::AttnOut, 0)]);
    let found = places("model.layers.0.post_attention_layernorm", &Layers::all(), llama.config()).unwrap();
    assert_eq!(found, [Place::new(Site::MlpNorm, 0)]);
}
