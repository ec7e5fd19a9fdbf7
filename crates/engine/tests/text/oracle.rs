//! Ids, prompts and texts as the transformers library and llama.cpp have them.

use meden_engine::text::{ChatTemplate, Message};
use serde_json::Value;

use crate::common::{Model, gemma3, reference, smollm2};

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn texts_encode(model: &Model, cases: &Value) {
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(model.tokenizer.encode(text, false).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

fn prompts_encode(model: &Model, cases: &Value) {
    for case in cases.as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(model.tokenizer.encode(prompt, true).unwrap(), ids(&case["ids"]), "{prompt:?}");
        if let Some(text) = case["greedy_text"].as_str() {
            assert_eq!(model.tokenizer.decode(&ids(&case["greedy_ids"]), false), text);
        }
    }
}

#[test]
fn smollm2_ids_are_those_of_llama_cpp() {
    if let Some(cases) = reference("smollm2/tokenizer.json") {
        texts_encode(smollm2(), &cases);
    }
    if let Some(cases) = reference("smollm2/prompts.json") {
        prompts_encode(smollm2(), &cases);
    }
    assert_eq!(smollm2().tokenizer.kind(), "byte-level BPE, pre-tokenizer smollm");
}

#[test]
fn gemma3_ids_are_those_of_llama_cpp() {
    let Some(model) = gemma3() else { return };
    if let Some(cases) = reference("gemma3-270m/tokenizer.json") {
        texts_encode(model, &cases);
    }
    if let Some(cases) = reference("gemma3-270m/prompts.json") {
        prompts_encode(model, &cases);
    }
}

#[test]
fn smollm2_prompts_are_those_of_transformers() {
    let Some(cases) = reference("smollm2/chat.json") else { return };
    let model = smollm2();
    let template = ChatTemplate::load(&model.files, &model.tokenizer).unwrap().unwrap();
    for case in cases.as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        assert_eq!(template.render(&messages, true).unwrap(), case["prompt"].as_str().unwrap());
    }
}
