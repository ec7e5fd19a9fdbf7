//! The weights inside an ONNX file: its initialisers, and which node reads which.
//!
//! ONNX is a protocol-buffer message; only the fields that lead to weights are read. Every length is held against the
//! bytes that are there, and nothing is allocated by a number that the file claims.
//! Format: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>

use std::ops::Range;
use std::path::Path;

use crate::error::FileError;
use crate::storage::Storage;

/// A protocol-buffer message cannot be larger.
const FILE_MAX: u64 = 2 << 30;
/// Several times the tensors and nodes of large models.
const COUNT_MAX: usize = 1 << 20;
/// Dimensions of a tensor at most.
const DIMS_MAX: usize = 16;
/// ONNX's number for 32-bit floats.
const FLOAT: u64 = 1;

/// A weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    /// Name in the graph.
    pub name: String,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    data: Range<usize>,
}

/// A step of the graph: what it is called, does, and reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, such as `/encoder/layer.0/mlp/fc1/MatMul`.
    pub name: String,
    /// Operator, such as `MatMul`.
    pub op: String,
    /// Names of what it reads, weights among them.
    pub inputs: Vec<String>,
}

/// An ONNX file in memory.
pub struct Onnx {
    bytes: Vec<u8>,
    path: std::path::PathBuf,
    initializers: Vec<Initializer>,
    nodes: Vec<Node>,
}

/// One field of a message.
enum Field {
    Number(u64),
    Bytes(Range<usize>),
    Other,
}

/// Walks over the fields of a message.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

type Parsed<T> = Result<T, String>;

impl Message<'_> {
    fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return Err(format!("a number is cut short at byte {}", self.at));
            }
            let byte = self.bytes[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("a number before byte {} is longer than ten bytes", self.at))
    }

    fn skip(&mut self, len: u64) -> Parsed<Range<usize>> {
        let left = (self.end - self.at) as u64;
        if len > left {
            return Err(format!("a field at byte {} claims {len} bytes, {left} are left", self.at));
        }
        let from = self.at;
        self.at += len as usize;
        Ok(from..self.at)
    }

    /// The next field's number and content.
    fn next(&mut self) -> Parsed<Option<(u64, Field)>> {
        if self.at == self.end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.skip(8).map(|_| Field::Other)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.skip(len)?)
            }
            5 => self.skip(4).map(|_| Field::Other)?,
            other => return Err(format!("wire type {other} before byte {} is not read", self.at)),
        };
        Ok(Some((tag >> 3, field)))
    }
}

impl Onnx {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, is too large for a protocol-buffer message, or is damaged.
    pub fn open(path: &Path) -> Result<Onnx, FileError> {
        let storage = Storage::open(path)?;
        if storage.len() > FILE_MAX {
            let (field, value) = ("the length of the file".to_owned(), storage.len());
            return Err(FileError::TooLarge { path: path.to_owned(), field, value, limit: FILE_MAX });
        }
        let bytes = storage.read_vec(0, storage.len(), "the file")?;
        let mut onnx = Onnx { bytes, path: path.to_owned(), initializers: Vec::new(), nodes: Vec::new() };
        onnx.parse().map_err(|problem| FileError::malformed(path, "the ONNX message", problem))?;
        Ok(onnx)
    }

    fn parse(&mut self) -> Parsed<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let mut model = Message { bytes: &bytes, at: 0, end: bytes.len() };
        let mut graphs = 0;
        while let Some((number, field)) = model.next()? {
            // ModelProto.graph
            if let (7, Field::Bytes(range)) = (number, field) {
                graphs += 1;
                let mut graph = Message { bytes: &bytes, at: range.start, end: range.end };
                while let Some((number, field)) = graph.next()? {
                    match (number, field) {
                        (1, Field::Bytes(range)) => self.nodes.push(node(&bytes, range)?),
                        (5, Field::Bytes(range)) => self.initializers.extend(tensor(&bytes, range)?),
                        _ => {}
                    }
                    if self.nodes.len() > COUNT_MAX || self.initializers.len() > COUNT_MAX {
                        return Err(format!("it holds more than {COUNT_MAX} nodes or weights"));
                    }
                }
            }
        }
        self.bytes = bytes;
        if graphs == 0 { Err("it holds no graph; is this an ONNX file?".into()) } else { Ok(()) }
    }

    /// Weights of 32-bit floats, in the order of the file. Others are left out.
    pub fn initializers(&self) -> &[Initializer] {
        &self.initializers
    }

    /// The graph's nodes, in the order of the file.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The little-endian bytes of a weight.
    pub fn bytes_of(&self, weight: &Initializer) -> &[u8] {
        &self.bytes[weight.data.clone()]
    }

    /// A weight by name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn require(&self, name: &str) -> Result<&Initializer, FileError> {
        self.initializers.iter().find(|i| i.name == name).ok_or_else(|| FileError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            count: self.initializers.len(),
            near: None,
        })
    }
}

fn text(bytes: &[u8], range: Range<usize>) -> Parsed<String> {
    let from = range.start;
    String::from_utf8(bytes[range].to_vec()).map_err(|_| format!("a name at byte {from} is not UTF-8"))
}

fn node(bytes: &[u8], range: Range<usize>) -> Parsed<Node> {
    let mut message = Message { bytes, at: range.start, end: range.end };
    let mut node = Node { name: String::new(), op: String::new(), inputs: Vec::new() };
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => node.inputs.push(text(bytes, range)?),
            (3, Field::Bytes(range)) => node.name = text(bytes, range)?,
            (4, Field::Bytes(range)) => node.op = text(bytes, range)?,
            _ => {}
        }
    }
    Ok(node)
}

/// A tensor of floats; `None` for other types.
fn tensor(bytes: &[u8], range: Range<usize>) -> Parsed<Option<Initializer>> {
    let mut message = Message { bytes, at: range.start, end: range.end };
    let (mut shape, mut name, mut kind, mut data, mut external) = (Vec::new(), String::new(), 0, None, false);
    let mut dimension = |value: u64| -> Parsed<()> {
        if shape.len() == DIMS_MAX {
            return Err(format!("a tensor has more than {DIMS_MAX} dimensions"));
        }
        shape.push(usize::try_from(value).map_err(|_| format!("a dimension is {value}"))?);
        Ok(())
    };
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Number(value)) => dimension(value)?,
            // Packed: several numbers in one field.
            (1, Field::Bytes(range)) => {
                let mut packed = Message { bytes, at: range.start, end: range.end };
                while packed.at < packed.end {
                    dimension(packed.varint()?)?;
                }
            }
            (2, Field::Number(value)) => kind = value,
            // Packed floats and raw bytes are both little-endian f32.
            (4 | 9, Field::Bytes(range)) if !range.is_empty() && data.is_none() => data = Some(range),
            (4 | 9, Field::Bytes(range)) if !range.is_empty() => {
                return Err(format!("tensor {name} holds its values twice"));
            }
            (8, Field::Bytes(range)) => name = text(bytes, range)?,
            (14, Field::Number(1)) => external = true,
            _ => {}
        }
    }
    if kind != FLOAT {
        return Ok(None);
    }
    if external {
        return Err(format!("tensor {name} lies in another file, which is not read"));
    }
    let need = shape.iter().try_fold(4usize, |n, d| n.checked_mul(*d));
    let data = data.unwrap_or(0..0);
    if need != Some(data.len()) {
        return Err(format!("tensor {name} of shape {shape:?} holds {} bytes", data.len()));
    }
    Ok(Some(Initializer { name, shape, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, content.len() as u8];
        out.extend_from_slice(content);
        out
    }

    fn sample() -> Vec<u8> {
        let values: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = [&[8, 3, 16, 1][..], &field(8, b"w"), &field(9, &values)].concat();
        let ids = [&[8, 1, 16, 7][..], &field(8, b"ids"), &field(9, &[0; 8])].concat();
        let node = [field(1, b"x"), field(1, b"w"), field(3, b"/a/MatMul"), field(4, b"MatMul")].concat();
        field(7, &[field(1, &node), field(5, &tensor), field(5, &ids)].concat())
    }

    fn opened(bytes: &[u8]) -> Result<Onnx, FileError> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("meden-onnx-{}-{n}.onnx", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let onnx = Onnx::open(&path);
        std::fs::remove_file(&path).unwrap();
        onnx
    }

    #[test]
    fn weights_and_nodes_are_found_and_other_types_left_out() {
        let onnx = opened(&sample()).unwrap();
        assert_eq!(onnx.initializers().len(), 1);
        let w = onnx.require("w").unwrap();
        assert_eq!((w.shape.as_slice(), onnx.bytes_of(w).len()), (&[3][..], 12));
        assert_eq!(onnx.nodes()[0].inputs, ["x", "w"]);
        assert!(onnx.require("v").is_err());
    }

    #[test]
    fn damage_anywhere_is_an_error_or_other_values_and_never_a_panic() {
        let bytes = sample();
        for at in 0..bytes.len() {
            for change in [!bytes[at], 0xff, 0, 0x80] {
                let mut b = bytes.clone();
                b[at] = change;
                let _ = opened(&b);
            }
            let _ = opened(&bytes[..at]);
        }
        assert!(opened(b"").err().unwrap().to_string().contains("no graph"));
    }
}
