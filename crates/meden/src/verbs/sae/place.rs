//! What the verbs on autoencoders share: which site, and which text.

use std::path::{Path, PathBuf};

use meden_engine::Config;
use meden_engine::text::Tokenizer;
use meden_lens::place::{Layers, Place, places};
use meden_lens::sae::Sae;
use meden_stats::Rng;
use meden_train::corpus::Corpus;

use crate::exit::usage;
use crate::prompt;

/// The site that an autoencoder reads: as given, or as its file says.
pub fn of(sae: &Sae, given: Option<&str>, config: &Config) -> anyhow::Result<Place> {
    let Some(site) = given.or(sae.origin().site.as_deref()) else {
        return Err(usage("--site: the autoencoder's file names no site; give one, as in 12.resid_post"));
    };
    let found = places(site, &Layers::all(), config)?;
    let [place] = found[..] else {
        return Err(usage(format!("--site: {site} means {} places; name one, as in 12.resid_post", found.len())));
    };
    if place.width(config) != sae.d_in() {
        return Err(usage(format!(
            "--site: {place} of this model is {} values wide, the autoencoder reads {}; it is of another site or model",
            place.width(config),
            sae.d_in()
        )));
    }
    Ok(place)
}

/// Sequences of `context` tokens each, at most `tokens` in all, from a corpus (its held-out part where `held_out`) in an
/// order that the seed decides, or from a plain text.
pub fn sequences(
    path: &Path,
    tokenizer: &Tokenizer,
    (context, tokens): (usize, usize),
    (held_out, seed): (bool, u64),
) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut all = Vec::new();
    let take = |text: &str, all: &mut Vec<Vec<u32>>| -> anyhow::Result<bool> {
        let ids = tokenizer.encode(text, true)?;
        for piece in ids.chunks_exact(context) {
            if (all.len() + 1) * context > tokens {
                return Ok(true);
            }
            all.push(piece.to_vec());
        }
        Ok(false)
    };
    if path.extension().is_some_and(|e| e == "jsonl") {
        let corpus = Corpus::read(path)?;
        let mut documents: Vec<_> = corpus.documents.iter().filter(|d| d.held_out == held_out).collect();
        Rng::new(seed, 0xc0).shuffle(&mut documents);
        for document in documents {
            if take(&document.text, &mut all)? {
                break;
            }
        }
    } else {
        take(&prompt::read_text(path)?, &mut all)?;
    }
    if all.is_empty() {
        return Err(usage(format!("{}: no text of {context} tokens in it; give more", path.display())));
    }
    Ok(all)
}

/// Which autoencoder, and which text.
#[derive(clap::Args, Debug)]
pub struct SaeArgs {
    /// Folder of the autoencoder (SAELens, Gemma Scope, sparsify, Llama Scope, dictionary_learning)
    #[arg(long, value_name = "FOLDER")]
    pub sae: PathBuf,
    /// Site that it reads, in any common way of writing; default: what its file says
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
}
