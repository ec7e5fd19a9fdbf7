//! Prints what a model file holds: `cargo run --release -p meden-files --example inspect -- PATH`.
use meden_files::ModelFiles;

fn main() -> Result<(), meden_files::FileError> {
    let path = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let model = ModelFiles::open(std::path::Path::new(&path))?;
    println!("architecture {}", model.architecture());
    if let Some(gguf) = model.gguf() {
        for (key, value) in gguf.metadata().iter() {
            let text: String = format!("{value:?}").chars().take(100).collect();
            println!("{key} = {text}");
        }
    }
    for t in model.tensors() {
        println!("{} {} {:?} {} bytes", t.name, t.dtype.name(), t.shape, t.bytes);
    }
    for t in model.unsupported() {
        println!("{} {} {:?}, not read", t.name, t.type_name, t.shape);
    }
    Ok(())
}
