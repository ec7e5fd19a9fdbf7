//! Which files of a repository are the model, when the user did not say.

use super::SourceError;

/// What to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// One GGUF.
    File(String),
    /// Weights and settings of a Hugging Face folder.
    Folder(Vec<String>),
}

/// Settings that are taken along when they are there.
const SETTINGS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The quantisation that is taken where several lie side by side: the usual middle of size and quality.
const PREFERRED: &str = "q4_k_m";

/// One GGUF, or safetensors with their settings; an error that lists the files when it is not clear.
pub(super) fn choose(names: &[String], repo: &str) -> Result<Choice, SourceError> {
    let unclear = |problem: &str, files: Vec<String>| SourceError::Choose {
        repo: repo.to_owned(),
        problem: problem.to_owned(),
        files,
    };
    // Image encoders come as a second GGUF, big models in parts: neither is the model.
    let is_model = |n: &&String| {
        let name = n.to_ascii_lowercase();
        name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("-of-0")
    };
    let ggufs: Vec<&String> = names.iter().filter(is_model).collect();
    let preferred: Vec<&&String> = ggufs.iter().filter(|n| n.to_ascii_lowercase().contains(PREFERRED)).collect();
    match (&ggufs[..], &preferred[..]) {
        ([one], _) => return Ok(Choice::File((*one).clone())),
        (_, [one]) => return Ok(Choice::File((**one).clone())),
        ([], _) => {}
        _ => {
            let files = ggufs.into_iter().cloned().collect();
            return Err(unclear("it has several .gguf files; name one of them:", files));
        }
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    let weights: Vec<&String> = names.iter().filter(|n| n.ends_with(".safetensors") && !n.contains('/')).collect();
    // Beside the shards some repositories keep the same weights once more in another arrangement.
    let of_model: Vec<&String> = weights.iter().copied().filter(|n| n.starts_with("model")).collect();
    let weights = if of_model.is_empty() { weights } else { of_model };
    if weights.is_empty() || !has("config.json") {
        return Err(unclear(
            "it has no .gguf file, nor config.json with .safetensors files; choose another model",
            Vec::new(),
        ));
    }
    let index = "model.safetensors.index.json";
    let settings = SETTINGS.into_iter().chain([index]).filter(|n| has(n)).map(str::to_owned);
    Ok(Choice::Folder(settings.chain(weights.into_iter().cloned()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_only_gguf_or_the_usual_quantisation_is_taken() {
        let one = choose(&names(&["README.md", "x-Q8_0.gguf", "mmproj-x.gguf"]), "a/b").unwrap();
        assert_eq!(one, Choice::File("x-Q8_0.gguf".into()));
        let usual = choose(&names(&["x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q4_K_S.gguf"]), "a/b").unwrap();
        assert_eq!(usual, Choice::File("x-Q4_K_M.gguf".into()));
    }

    #[test]
    fn several_ggufs_are_listed_as_names_to_paste() {
        let e = choose(&names(&["x-Q8_0.gguf", "x-Q2_K.gguf"]), "a/b").unwrap_err().to_string();
        assert!(e.contains("hf:a/b:x-Q8_0.gguf") && e.contains("hf:a/b:x-Q2_K.gguf"), "{e}");
    }

    #[test]
    fn a_folder_takes_its_settings_and_only_the_model_s_weights() {
        let list = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "tokenizer.json",
        ];
        let Choice::Folder(files) = choose(&names(&list), "a/b").unwrap() else { panic!("a file was chosen") };
        assert_eq!(
            files,
            [
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
        assert!(choose(&names(&["README.md"]), "a/b").is_err());
    }
}
