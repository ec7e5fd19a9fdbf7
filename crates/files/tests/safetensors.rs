//! safetensors files: single, in shards, and held against the format's own library.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::{Folder, f32s, ramp, raw};
use meden_files::FileError;
use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::dtype::DType;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

#[test]
fn the_library_reads_what_we_write() {
    let folder = Folder::new();
    let path = folder.file("ours.safetensors");
    SafetensorsWriter::new()
        .meta("format", "pt")
        .tensor("w", DType::F32, &[2, 3], ramp(6))
        .tensor("h", DType::BF16, &[4], vec![1; 8])
        .write(&path)
        .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let w = theirs.tensor("w").unwrap();
    assert_eq!((w.dtype(), w.shape(), w.data()), (Dtype::F32, &[2, 3][..], &ramp(6)[..]));
    assert_eq!(theirs.tensor("h").unwrap().dtype(), Dtype::BF16);
    let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(head.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn we_read_what_the_library_writes_and_list_what_we_cannot_use() {
    let folder = Folder::new();
    let (w, ids) = (ramp(6), 5i64.to_le_bytes());
    let views = [
        ("w", TensorView::new(Dtype::F32, vec![2, 3], &w).unwrap()),
        ("ids", TensorView::new(Dtype::I64, vec![1], &ids).unwrap()),
        ("empty", TensorView::new(Dtype::F16, vec![0, 7], &[]).unwrap()),
    ];
    let file = Safetensors::open(&folder.put("x.safetensors", safetensors::serialize(views, None).unwrap())).unwrap();
    let t = file.tensor("w").unwrap();
    assert_eq!((t.dtype, t.shape.as_slice()), (DType::F32, &[2, 3][..]));
    assert_eq!(file.read(t).unwrap(), w);
    assert_eq!(file.read_rows(t, 1..2).unwrap(), w[12..]);
    assert!(file.read(file.tensor("empty").unwrap()).unwrap().is_empty());
    assert_eq!(file.unsupported().len(), 1);
    let error = file.tensor("ids").unwrap_err();
    assert!(matches!(&error, FileError::UnsupportedType { type_name, .. } if type_name == "I64"), "{error}");
}

#[test]
fn the_index_decides_which_shard_a_tensor_comes_from() {
    let folder = Folder::new();
    let one = |v: f32| f32s(&[v]);
    let shard = |name, tensors: &[(&str, f32)]| {
        let writer = tensors.iter().fold(SafetensorsWriter::new(), |w, (n, v)| w.tensor(n, DType::F32, &[1], one(*v)));
        writer.write(&folder.file(name)).unwrap();
    };
    shard("m-1.safetensors", &[("a", 1.0), ("stale", 1.0)]);
    shard("m-2.safetensors", &[("a", 2.0), ("b", 3.0)]);
    let index = |map: &str| {
        folder.put("m.safetensors.index.json", format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{map}}}"#))
    };

    let path = index(r#"{"a":"m-2.safetensors","b":"m-2.safetensors","stale":"m-1.safetensors"}"#);
    let file = Safetensors::open(&path).unwrap();
    assert_eq!(file.tensors().len(), 3, "the same name in another shard is not counted");
    assert_eq!(file.read(file.tensor("a").unwrap()).unwrap(), one(2.0));
    assert_eq!(file.read(file.tensor("stale").unwrap()).unwrap(), one(1.0));

    let error = Safetensors::open(&index(r#"{"gone":"m-1.safetensors"}"#)).unwrap_err();
    assert!(matches!(&error, FileError::MissingTensor { tensor, .. } if tensor == "gone"), "{error}");
    assert!(error.to_string().contains("m-1.safetensors"), "{error}");

    let other = SafetensorsWriter::new().tensor("a", DType::F32, &[1], one(0.0));
    other.write(&folder.file("single.safetensors")).unwrap();
    let single = Safetensors::open(&folder.file("single.safetensors")).unwrap();
    let foreign = file.tensor("a").unwrap();
    assert!(matches!(single.read(foreign), Err(FileError::BadRead { .. })), "a tensor of another model was read");
}

#[test]
fn a_shard_that_shrinks_while_open_is_an_error() {
    let folder = Folder::new();
    let path = folder.file("x.safetensors");
    SafetensorsWriter::new().tensor("t", DType::F32, &[1000], ramp(1000)).write(&path).unwrap();
    let file = Safetensors::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = file.read(file.tensor("t").unwrap()).unwrap_err();
    assert!(matches!(error, FileError::Shrunk { now: 100, .. }), "{error}");
}

#[test]
fn the_writer_refuses_what_would_be_no_file() {
    let folder = Folder::new();
    let path = folder.file("bad.safetensors");
    let t = |w: SafetensorsWriter, name, n: usize| w.tensor(name, DType::F32, &[4], vec![0; n]);
    for writer in [
        t(SafetensorsWriter::new(), "short", 12),
        t(t(SafetensorsWriter::new(), "twice", 16), "twice", 16),
        SafetensorsWriter::new().tensor("quantised", DType::Q8_0, &[32], vec![0; 34]),
    ] {
        assert!(writer.write(&path).is_err(), "{writer:?}");
        assert!(!path.exists());
    }
}

#[test]
fn a_header_of_many_tensors_opens_quickly() {
    let folder = Folder::new();
    let mut head = String::from("{");
    for i in 0..20_000 {
        let (a, b) = (i * 4, i * 4 + 4);
        head.push_str(&format!(r#""model.layers.{i}.w":{{"dtype":"F32","shape":[1],"data_offsets":[{a},{b}]}},"#));
    }
    head.pop();
    head.push('}');
    let path = folder.put("many.safetensors", raw::safetensors(&head, 80_000));
    let start = std::time::Instant::now();
    assert_eq!(Safetensors::open(&path).unwrap().tensors().len(), 20_000);
    assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());
}
