//! Which tokens have low key norms: for each layer, the mean percentile of the norms of the first token, of
//! punctuation, and of the rest (0 is the lowest norm of its head).
//!
//! cargo run --release -p meden-engine --example key_norms -- MODEL.gguf TEXT [TOKENS]
//!
//! The paper (arXiv 2406.11430) finds the first token and punctuation lowest.

use meden_engine::text::Tokenizer;
use meden_engine::{Control, LoadOptions, Model, Session, SessionOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(model), Some(text)) = (args.first(), args.get(1)) else {
        return Err("usage: key_norms MODEL.gguf TEXT [TOKENS]".into());
    };
    let tokens: usize = args.get(2).map_or(Ok(2048), |t| t.parse())?;
    let files = meden_files::ModelFiles::open(model.as_ref())?;
    let (tokenizer, model) = (Tokenizer::load(&files)?, Model::load(&files, &LoadOptions::default())?);
    let mut ids = tokenizer.encode_plain(&std::fs::read_to_string(text)?)?;
    ids.truncate(tokens);
    if let Some(bos) = tokenizer.bos() {
        ids.insert(0, bos);
    }
    let kind = |at: usize| {
        let text = tokenizer.token_text(ids[at]);
        let text = text.trim();
        match at {
            0 => 0,
            _ if !text.is_empty() && text.chars().all(|c| c.is_ascii_punctuation()) => 1,
            _ => 2,
        }
    };
    let mut session = Session::new(model.clone(), SessionOptions::default())?;
    session.prefill(&ids, &mut Control::default())?;
    println!("{} tokens of {text}; mean percentile of the key norm\n", ids.len());
    println!("| layer | first token | punctuation | the rest |\n| --- | --- | --- | --- |");
    let mut all = [(0.0, 0usize); 3];
    for (number, layer) in session.cache().layers().iter().enumerate().filter(|(_, l)| l.window().is_none()) {
        let mut of_layer = [(0.0, 0usize); 3];
        for head in layer.heads() {
            let mut order: Vec<usize> = (0..head.len()).collect();
            order.sort_by(|&a, &b| head.norms()[a].total_cmp(&head.norms()[b]));
            for (rank, slot) in order.into_iter().enumerate() {
                let percentile = 100.0 * rank as f64 / (head.len() - 1).max(1) as f64;
                for sums in [&mut of_layer, &mut all] {
                    let (sum, count) = &mut sums[kind(head.positions()[slot] as usize)];
                    *sum += percentile;
                    *count += 1;
                }
            }
        }
        let mean = |k: usize| of_layer[k].0 / of_layer[k].1.max(1) as f64;
        println!("| {number} | {:.1} | {:.1} | {:.1} |", mean(0), mean(1), mean(2));
    }
    let mean = |k: usize| all[k].0 / all[k].1.max(1) as f64;
    println!("| all | {:.1} | {:.1} | {:.1} |", mean(0), mean(1), mean(2));
    Ok(())
}
