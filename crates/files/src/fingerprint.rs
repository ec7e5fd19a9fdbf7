//! A cheap identity for weights.
//!
//! Hashing a model of many gigabytes takes longer than loading it, so the bytes of a tensor are sampled:
//! four places of 4 kB, spread evenly, the first and the last among them. A tensor of 16 kB or less (a
//! norm of a small model) is hashed whole. The head, which has every name, shape, type and offset and in
//! a GGUF the whole vocabulary, is always hashed whole.

use crate::error::FileError;
use crate::hash::Hash;
use crate::storage::Storage;
use crate::tensor::TensorInfo;

const SAMPLES: u64 = 4;
const SAMPLE: u64 = 4096;

/// Fingerprint of weight files (with the lengths of their heads), the tensors in them, and config.json.
pub(crate) fn of(
    files: &[(&Storage, u64)],
    tensors: &[TensorInfo],
    config: Option<&[u8]>,
) -> Result<[u8; 32], FileError> {
    let mut hash = Hash::sha256();
    hash.update(b"meden fingerprint 1");
    for (storage, head) in files {
        hash.update(&storage.len().to_le_bytes());
        hash.update(&head.to_le_bytes());
        let mut at = 0;
        while at < *head {
            let n = (head - at).min(1 << 20);
            hash.update(&storage.read_vec(at, n, "the head")?);
            at += n;
        }
    }
    let config = config.unwrap_or_default();
    hash.update(&(config.len() as u64).to_le_bytes());
    hash.update(config);
    for t in tensors {
        let Some((storage, _)) = files.get(t.file) else { continue };
        let bytes = t.bytes as u64;
        if bytes <= SAMPLES * SAMPLE {
            hash.update(&storage.read_vec(t.offset, bytes, &t.name)?);
            continue;
        }
        for i in 0..SAMPLES {
            let at = (bytes - SAMPLE) / (SAMPLES - 1) * i;
            let at = if i == SAMPLES - 1 { bytes - SAMPLE } else { at };
            hash.update(&storage.read_vec(t.offset + at, SAMPLE, &t.name)?);
        }
    }
    Ok(hash.bytes())
}
