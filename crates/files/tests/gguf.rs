//! GGUF files that are good, and good files to which something happens.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::raw::Raw;
use common::{Folder, f32s, ramp};
use meden_files::gguf::{Array, Gguf, GgufWriter, Value};
use meden_files::{FileError, ModelFiles};
use meden_kernels::dtype::DType;

/// Every type of value, arrays of each, and arrays of arrays.
fn every_value() -> Vec<(&'static str, Value)> {
    let nested = Array::Array(vec![
        Array::String(vec!["a".into(), String::new()]),
        Array::Array(vec![Array::U8(vec![1, 2]), Array::F64(vec![])]),
    ]);
    vec![
        ("u8", 255u8.into()),
        ("i8", (-128i8).into()),
        ("u16", 65_535u16.into()),
        ("i16", (-32_768i16).into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("f32", 0.1f32.into()),
        ("bool", true.into()),
        ("string", "grüße\n".into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", 0.1f64.into()),
        ("u8s", vec![1u8, 2].into()),
        ("i8s", vec![-1i8].into()),
        ("u16s", vec![1u16, 2, 3].into()),
        ("i16s", vec![-1i16].into()),
        ("u32s", vec![1u32, u32::MAX].into()),
        ("i32s", vec![-1i32, 0].into()),
        ("f32s", vec![1.5f32, f32::INFINITY].into()),
        ("bools", vec![true, false].into()),
        ("strings", vec!["x".to_owned(), "yz".to_owned()].into()),
        ("u64s", vec![u64::MAX].into()),
        ("i64s", vec![i64::MIN].into()),
        ("f64s", vec![1e300f64].into()),
        ("none", Array::U32(vec![]).into()),
        ("nested", nested.into()),
    ]
}

#[test]
fn every_type_of_value_survives_a_file() {
    let folder = Folder::new();
    let path = folder.file("values.gguf");
    let values = every_value();
    values.iter().fold(GgufWriter::new(), |w, (k, v)| w.meta(k, v.clone())).write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let read: Vec<(&str, Value)> = gguf.metadata().iter().map(|(k, v)| (k, v.clone())).collect();
    assert_eq!(read, values, "values or their order have changed");
    assert_eq!((gguf.version(), gguf.alignment(), gguf.tensors().len()), (3, 32, 0));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "a temporary file was left behind");
}

#[test]
fn tensors_come_back_whole_and_by_rows_at_any_alignment() {
    let folder = Folder::new();
    for alignment in [8u32, 32, 64, 4096] {
        let path = folder.file("t.gguf");
        let quantised: Vec<u8> = (0..3 * 2 * 20).map(|i| i as u8).collect();
        GgufWriter::new()
            .meta("general.alignment", alignment)
            .tensor("a", DType::F32, &[3, 5], ramp(15))
            .tensor("b", DType::Q4_1, &[3, 64], quantised.clone())
            .tensor("c", DType::F16, &[7], vec![9; 14])
            .tensor("scalar", DType::F32, &[], f32s(&[4.0]))
            .write(&path)
            .unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "scalar"]);
        let (a, b) = (gguf.tensor("a").unwrap(), gguf.tensor("b").unwrap());
        assert_eq!((a.shape.as_slice(), b.shape.as_slice()), (&[3, 5][..], &[3, 64][..]), "outermost first");
        assert_eq!(gguf.read(a).unwrap(), ramp(15));
        assert_eq!(gguf.read_rows(a, 1..3).unwrap(), ramp(15)[20..]);
        assert_eq!(gguf.read_rows(b, 1..2).unwrap(), quantised[40..80]);
        assert!(gguf.read_rows(a, 2..2).unwrap().is_empty());
        assert_eq!(gguf.read(gguf.tensor("scalar").unwrap()).unwrap(), f32s(&[4.0]));
        assert!(gguf.tensors().iter().all(|t| t.offset() % u64::from(alignment) == 0));
        let error = gguf.read_rows(a, 2..4).unwrap_err();
        assert!(matches!(error, FileError::BadRead { .. }), "{error}");
    }
}

#[test]
fn version_2_is_read_as_version_3() {
    let folder = Folder::new();
    let raw = Raw::gguf(2, 1, 1).key("a", 4).u32(7).tensor("t", &[4, 2], 0, 0).data(32);
    let gguf = Gguf::open(&folder.put("2.gguf", raw.bytes)).unwrap();
    assert_eq!((gguf.version(), gguf.u32("a").unwrap()), (2, 7));
    assert_eq!(gguf.tensor("t").unwrap().shape, [2, 4]);
}

#[test]
fn integers_of_any_width_are_read_and_other_types_refused() {
    let folder = Folder::new();
    let path = folder.file("v.gguf");
    GgufWriter::new()
        .meta("wide", 7u64)
        .meta("narrow", 7u8)
        .meta("negative", -1i32)
        .meta("huge", 1u64 << 40)
        .meta("text", "7")
        .meta("list", vec![1i32])
        .write(&path)
        .unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!((gguf.u32("wide").unwrap(), gguf.u32("narrow").unwrap(), gguf.u64("huge").unwrap()), (7, 7, 1 << 40));
    for key in ["negative", "huge", "text", "list"] {
        let error = gguf.opt_u32(key).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("v.gguf") && error.contains("integer"), "{error}");
    }
    assert!(gguf.opt_u32("absent").unwrap().is_none());
    assert!(matches!(gguf.u32("absent").unwrap_err(), FileError::MissingKey { .. }));
    assert!(gguf.opt_str_array("list").is_err(), "an array of another type is no absent one");
}

#[test]
fn a_type_that_is_not_read_is_listed_and_named_when_asked_for() {
    let folder = Folder::new();
    let raw = Raw::llama(2, 0).tensor("blk.0.ffn_up.weight", &[256], 29, 0).tensor("odd", &[4], 77, 0).data(64);
    let model = ModelFiles::open(&folder.put("new.gguf", raw.bytes)).unwrap();
    assert_eq!(model.tensors().len(), 0);
    let name = "model.layers.0.mlp.up_proj.weight";
    let error = model.require(name).unwrap_err();
    assert!(matches!(&error, FileError::UnsupportedType { type_name, .. } if type_name == "IQ1_M"), "{error}");
    assert!(error.to_string().contains(name) && error.to_string().contains("Q4_K"), "{error}");
    assert!(model.require("odd").unwrap_err().to_string().contains("type 77"));
}

#[test]
fn a_missing_tensor_names_the_nearest_one() {
    let folder = Folder::new();
    let path = folder.file("m.gguf");
    let writer = GgufWriter::new().meta("general.architecture", "llama");
    writer.tensor("blk.3.attn_q.weight", DType::F32, &[1], f32s(&[0.0])).write(&path).unwrap();
    let error = ModelFiles::open(&path).unwrap().require("model.layers.3.self_attn.q_proj.bias").unwrap_err();
    assert!(error.to_string().contains("the nearest is model.layers.3.self_attn.q_proj.weight"), "{error}");
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error_with_numbers() {
    let folder = Folder::new();
    let path = folder.file("shrinks.gguf");
    GgufWriter::new().tensor("t", DType::F32, &[100, 100], ramp(10_000)).write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let t = gguf.tensor("t").unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let error = gguf.read(t).unwrap_err();
    assert!(matches!(error, FileError::Shrunk { need: 40_000, now: 1000, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("shrinks.gguf") && text.contains("t needs 40000 bytes"), "{text}");
    assert!(gguf.read_rows(t, 0..1).is_ok(), "what is still there can still be read");
}

#[test]
fn the_writer_refuses_what_would_be_no_file() {
    let folder = Folder::new();
    let path = folder.file("bad.gguf");
    let t = |w: GgufWriter, name, n: usize| w.tensor(name, DType::F32, &[4], vec![0; n]);
    let bad = [
        t(GgufWriter::new(), "short", 15),
        t(t(GgufWriter::new(), "twice", 16), "twice", 16),
        GgufWriter::new().meta("twice", 1u32).meta("twice", 2u32),
        GgufWriter::new().meta("general.alignment", 12u32),
        GgufWriter::new().tensor("half a block", DType::Q8_0, &[33], vec![0; 34]),
    ];
    for writer in bad {
        assert!(writer.write(&path).is_err(), "{writer:?}");
        assert!(!path.exists());
    }
    assert!(GgufWriter::new().write(&folder.file("no/such/folder.gguf")).is_err());
}
