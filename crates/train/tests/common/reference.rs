//! Reading reference values.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

/// A folder of reference values, where it lies beside this checkout.
pub fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle")).join(part);
    if !path.exists() {
        println!("skipped: no shared/oracle/{part} beside this checkout");
        return None;
    }
    Some(path)
}

/// An f32 tensor.
pub fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
