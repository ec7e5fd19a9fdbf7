//! Mutated config.json, generation_config.json and tokenizer_config.json texts.

use serde_json::{Value, json};

use super::Random;

fn good() -> Value {
    json!({
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 32, "vocab_size": 320, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "layer_types": ["sliding_attention", "full_attention"], "eos_token_id": [1, 2], "pad_token_id": -1,
        "rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                            "sliding_attention": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
        "rope_scaling": {"type": "linear", "factor": 2.0, "long_factor": [1.0, 2.0]}, "rope_theta": 1e4,
        "text_config": {"hidden_size": 32, "vocab_size": 11}, "other": {"deep": [[1, null], {}]},
        "bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>", "model_max_length": 1e30,
        "added_tokens_decoder": {"0": {"content": "x"}}, "chat_template": [{"name": "default", "template": "t"}],
        "temperature": 0.5, "top_k": 40
    })
}

/// One mutated text.
pub fn config(random: &mut Random) -> Vec<u8> {
    let mut value = good();
    for _ in 0..=random.below(4) {
        change(&mut value, random);
    }
    let mut text = value.to_string().into_bytes();
    if random.below(4) == 0 {
        random.bytes(&mut text);
    }
    text
}

/// Walks to some place and puts something else there.
fn change(value: &mut Value, random: &mut Random) {
    let deeper = random.below(6) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = random.below(map.len());
            let Some((_, inner)) = map.iter_mut().nth(at) else { return };
            change(inner, random);
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = random.below(list.len());
            change(&mut list[at], random);
        }
        other => *other = something(random),
    }
}

fn something(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => json!(random.below(2) == 1),
        2 => json!(random.number(3)),
        3 => json!(random.number(3) as i64),
        4 => json!(f64::from_bits(random.next())),
        5 => json!("llama"),
        6 => json!([random.number(9), "x", null]),
        7 => json!({"rope_theta": random.number(1), "factor": "two"}),
        _ => (0..random.below(200)).fold(Value::Null, |inner, _| json!([inner])),
    }
}
