//! Where things are kept and from where they may be fetched. The one place that reads the environment.

use std::env;
use std::path::PathBuf;

/// Where models are kept and what may be reached.
#[derive(Clone, Debug)]
pub struct ResolveOptions {
    /// Folder of the built-in models: `MEDEN_CACHE`, else `XDG_CACHE_HOME/meden`, else `~/.cache/meden`.
    pub cache: PathBuf,
    /// Folder of the Hugging Face cache: `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub hub_cache: PathBuf,
    /// Address of the hub: `HF_ENDPOINT`, else the Hugging Face hub's own.
    pub endpoint: String,
    /// Token for models behind a licence: `HF_TOKEN`, else what `HF_HOME/token` holds.
    pub token: Option<String>,
    /// Fetch nothing, from wherever: `HF_HUB_OFFLINE` is 1, true, yes or on.
    pub offline: bool,
    /// Command lines that may be pip, tried in this order.
    pub pips: Vec<Vec<String>>,
}

/// Address of the Hugging Face hub.
const ENDPOINT: &str = "https://huggingface.co";

impl ResolveOptions {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name| env::var(name).ok().filter(|v: &String| !v.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map_or_else(|| PathBuf::from("."), PathBuf::from);
        let user_cache = var("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let hf_home = var("HF_HOME").map_or_else(|| user_cache.join("huggingface"), PathBuf::from);
        let stored = || std::fs::read_to_string(hf_home.join("token")).ok().map(|t| t.trim().to_owned());
        ResolveOptions {
            cache: var("MEDEN_CACHE").map_or_else(|| user_cache.join("meden"), PathBuf::from),
            hub_cache: hf_home.join("hub"),
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            token: var("HF_TOKEN").or_else(stored).filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE")
                .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")),
            pips: ["python3 -m pip", "python -m pip", "py -m pip", "pip", "pip3"]
                .map(|line| line.split(' ').map(str::to_owned).collect())
                .to_vec(),
        }
    }
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self::from_env()
    }
}
