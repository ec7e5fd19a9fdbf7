//! GGUF and safetensors files byte by byte, without any of the checks that the writers make.

/// Bytes of a file, and where its numbers are.
#[derive(Clone, Default)]
pub struct Raw {
    pub bytes: Vec<u8>,
    /// Offset and width of every count, length, type and offset.
    pub fields: Vec<(usize, usize)>,
}

pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const F64: u32 = 12;

impl Raw {
    /// Magic, version and counts.
    pub fn gguf(version: u32, tensors: u64, pairs: u64) -> Raw {
        Raw::default().raw(b"GGUF").u32(version).u64(tensors).u64(pairs)
    }

    /// A version 3 head with the architecture as its first pair.
    pub fn llama(tensors: u64, more_pairs: u64) -> Raw {
        Raw::gguf(3, tensors, 1 + more_pairs).key("general.architecture", STRING).string("llama")
    }

    pub fn raw(mut self, bytes: &[u8]) -> Raw {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u32(mut self, v: u32) -> Raw {
        self.fields.push((self.bytes.len(), 4));
        self.raw(&v.to_le_bytes())
    }

    pub fn u64(mut self, v: u64) -> Raw {
        self.fields.push((self.bytes.len(), 8));
        self.raw(&v.to_le_bytes())
    }

    pub fn string(self, text: &str) -> Raw {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A pair's key and type; its value has to follow.
    pub fn key(self, key: &str, kind: u32) -> Raw {
        self.string(key).u32(kind)
    }

    /// An array's element type and length; the elements have to follow.
    pub fn array(self, kind: u32, len: u64) -> Raw {
        self.u32(kind).u64(len)
    }

    /// A tensor's record; dimensions in the order of the file.
    pub fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Raw {
        let head = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(head, |raw, &d| raw.u64(d)).u32(kind).u64(offset)
    }

    /// Zeros up to a multiple of 32, then `n` bytes of data.
    pub fn data(mut self, n: usize) -> Raw {
        let start = self.bytes.len().next_multiple_of(32);
        self.bytes.resize(start, 0);
        self.bytes.extend((0..n).map(|i| i as u8));
        self
    }
}

/// A safetensors file: length, head, `n` bytes of data.
pub fn safetensors(head: &str, n: usize) -> Vec<u8> {
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend((0..n).map(|i| i as u8));
    bytes
}
