//! The Hugging Face hub, played by two servers on the loopback interface: the hub itself, which knows
//! hashes and redirects, and the storage host, which has the bytes.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use std::collections::BTreeMap;

use common::server::{Reply, Request, Server};
use common::{Folder, Notes, f32s, options};
use meden_files::ModelFiles;
use meden_files::gguf::GgufWriter;
use meden_files::safetensors_file::SafetensorsWriter;
use meden_files::source::{ResolveOptions, Silent, SourceError, resolve};
use meden_kernels::dtype::DType;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// SHA-256 of `bytes`, by the library that a test trusts.
fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Git's name of a file.
fn git_hash(bytes: &[u8]) -> String {
    let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &whole);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A hub with one repository `a/b`. `storage` answers for the bytes of large files; small ones (JSON)
/// come from the hub itself, as with the real one.
struct Hub {
    server: Server,
    storage: Server,
}

impl Hub {
    fn start(files: &[(&str, Vec<u8>)], storage: impl FnMut(&Request) -> Reply + Send + 'static) -> Hub {
        let storage = Server::start(storage);
        let (host, files) = (storage.url(), files.iter().map(|(n, b)| ((*n).to_owned(), b.clone())));
        let files: BTreeMap<String, Vec<u8>> = files.collect();
        let server = Server::start(move |request| {
            if request.path == "/api/models/a/b" {
                let list: Vec<String> = files.keys().map(|n| format!(r#"{{"rfilename":"{n}"}}"#)).collect();
                return Reply::new(200, format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, list.join(",")));
            }
            let name = request.path.strip_prefix("/a/b/resolve/main/").unwrap_or_default();
            let Some(bytes) = files.get(name) else { return Reply::new(404, "no") };
            if name.ends_with(".json") {
                let etag = format!("\"{}\"", git_hash(bytes));
                return Reply::file(bytes, request).with("x-repo-commit", COMMIT).with("etag", etag);
            }
            Reply::new(302, "")
                .with("location", format!("{host}/{name}"))
                .with("x-repo-commit", COMMIT)
                .with("x-linked-size", bytes.len().to_string())
                .with("x-linked-etag", format!("\"{}\"", sha256(bytes)))
        });
        Hub { server, storage }
    }

    /// A hub whose storage host does as it should.
    fn good(files: &[(&str, Vec<u8>)]) -> Hub {
        let all: BTreeMap<String, Vec<u8>> = files.iter().map(|(n, b)| (format!("/{n}"), b.clone())).collect();
        Hub::start(files, move |r| all.get(&r.path).map_or(Reply::new(404, ""), |b| Reply::file(b, r)))
    }
}

fn body(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 251) as u8).collect()
}

fn fetch(name: &str, options: &ResolveOptions) -> Result<std::path::PathBuf, SourceError> {
    resolve(name, options, &mut Silent)
}

#[test]
fn a_file_lands_in_the_cache_and_is_never_asked_for_again() {
    let (folder, bytes) = (Folder::new(), body(100_000));
    let hub = Hub::good(&[("sub/m x.gguf", bytes.clone())]);
    let mut options = options(&folder, &hub.server.url());
    options.token = Some("secret".into());
    // The address has the space escaped; our little hub does not unescape, so it is asked for plainly.
    assert!(matches!(fetch("hf:a/b:sub/m x.gguf", &options), Err(SourceError::NotFound { .. })));
    assert!(hub.server.requests().iter().any(|r| r.path.ends_with("sub/m%20x.gguf")));

    let hub = Hub::good(&[("sub/m.gguf", bytes.clone())]);
    options.endpoint = hub.server.url();
    let mut notes = Notes::default();
    let path = resolve("hf:a/b:sub/m.gguf", &options, &mut notes).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let repo = folder.file("hub/models--a--b");
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("sub/m.gguf"));
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(repo.join("blobs").join(sha256(&bytes))).unwrap(), bytes);
    #[cfg(unix)]
    assert!(std::fs::read_link(&path).unwrap().is_relative(), "the cache can be moved");
    assert!(
        notes.started.iter().any(|(what, total)| what.contains("m.gguf") && *total == Some(100_000)),
        "{:?}",
        notes.started
    );
    assert_eq!((notes.open, notes.advanced), (0, 200_000), "fetched, then checked");

    let token = |r: &Request| r.header("authorization").map(str::to_owned);
    assert!(hub.server.requests().iter().all(|r| token(r).as_deref() == Some("Bearer secret")));
    assert!(hub.storage.requests().iter().all(|r| token(r).is_none()), "the token was shown to another host");

    drop(hub);
    assert_eq!(fetch("hf:a/b:sub/m.gguf", &options).unwrap(), path, "what is here needs no hub");
    options.offline = true;
    assert_eq!(fetch("hf:a/b:sub/m.gguf", &options).unwrap(), path);
    let text = fetch("hf:a/b:other.gguf", &options).unwrap_err().to_string();
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("hf:a/b") && !text.contains('\n'), "{text}");
}

#[test]
fn a_part_is_taken_up_where_it_ends() {
    let (folder, bytes) = (Folder::new(), body(50_000));
    let hub = Hub::good(&[("m.gguf", bytes.clone())]);
    folder.put(&format!("hub/models--a--b/blobs/{}.incomplete", sha256(&bytes)), &bytes[..20_000]);
    let path = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    let ranges: Vec<Option<usize>> = hub.storage.requests().iter().map(Request::range).collect();
    assert_eq!(ranges, [Some(20_000)], "only what was missing is asked for");
}

#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    let (folder, bytes) = (Folder::new(), body(90_000));
    let all = bytes.clone();
    // Every answer ends 30,000 bytes on.
    let hub = Hub::start(&[("m.gguf", bytes.clone())], move |r| Reply { cut: Some(30_000), ..Reply::file(&all, r) });
    let path = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    let ranges: Vec<Option<usize>> = hub.storage.requests().iter().map(Request::range).collect();
    assert_eq!(ranges, [None, Some(30_000), Some(60_000)]);
}

#[test]
fn a_server_that_sends_nothing_more_is_given_up_with_numbers_and_the_part_stays() {
    let (folder, bytes) = (Folder::new(), body(90_000));
    let all = bytes.clone();
    let hub = Hub::start(&[("m.gguf", bytes.clone())], move |r| {
        let cut = if r.range().is_none() { 40_000 } else { 0 };
        Reply { cut: Some(cut), ..Reply::file(&all, r) }
    });
    let error = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap_err();
    assert!(matches!(error, SourceError::Truncated { got: 40_000, want: 90_000, .. }), "{error}");
    assert!(error.to_string().contains("run it again"), "{error}");

    let hub = Hub::good(&[("m.gguf", bytes.clone())]);
    let path = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    assert_eq!(hub.storage.requests()[0].range(), Some(40_000));
}

#[test]
fn ranges_that_are_not_served_mean_a_new_start() {
    for status in [200, 416] {
        let (folder, bytes) = (Folder::new(), body(50_000));
        let all = bytes.clone();
        let hub = Hub::start(&[("m.gguf", bytes.clone())], move |r| {
            let refuse = status == 416 && r.range().is_some();
            if refuse { Reply::new(416, "") } else { Reply::new(200, all.clone()) }
        });
        folder.put(&format!("hub/models--a--b/blobs/{}.incomplete", sha256(&bytes)), body(20_000));
        let path = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes, "after status {status}");
    }
}

#[test]
fn other_bytes_than_the_hash_names_are_deleted() {
    let (folder, bytes) = (Folder::new(), body(5_000));
    let mut other = bytes.clone();
    other[2_500] ^= 1;
    let hub = Hub::start(&[("m.gguf", bytes.clone())], move |r| Reply::file(&other, r));
    let options = options(&folder, &hub.server.url());
    let error = fetch("hf:a/b:m.gguf", &options).unwrap_err();
    assert!(matches!(&error, SourceError::WrongHash { expected, .. } if *expected == sha256(&bytes)), "{error}");
    let blobs = std::fs::read_dir(folder.file("hub/models--a--b/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "wrong bytes were kept");
    assert!(!folder.file("hub/models--a--b/refs/main").exists());

    // The same for small files, which git names.
    let small = Server::start(|r| {
        Reply::file(b"{} ", r).with("x-repo-commit", COMMIT).with("etag", format!("\"{}\"", git_hash(b"{}  ")))
    });
    let error = fetch("hf:a/b:config.json", &ResolveOptions { endpoint: small.url(), ..options }).unwrap_err();
    assert!(matches!(&error, SourceError::WrongHash { kind: "git hash", .. }), "{error}");
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let (folder, bytes) = (Folder::new(), body(5_000));
    let hub = Hub::start(&[("m.gguf", bytes)], move |_| Reply::new(200, body(6_000_000)));
    let error = fetch("hf:a/b:m.gguf", &options(&folder, &hub.server.url())).unwrap_err();
    assert!(matches!(&error, SourceError::BadAnswer { problem, .. } if problem.contains("5000")), "{error}");
}

#[test]
fn refusals_say_what_to_do() {
    let folder = Folder::new();
    for (status, words) in [
        (401, &["HF_TOKEN", "licence", "401"][..]),
        (403, &["HF_TOKEN", "licence", "403"]),
        (404, &["hf:a/b", "has no", "spelling"]),
        (500, &["status 500", "try again"]),
        (429, &["status 429"]),
    ] {
        let server = Server::start(move |_| Reply::new(status, "no"));
        for name in ["hf:a/b:m.gguf", "hf:a/b"] {
            let text = fetch(name, &options(&folder, &server.url())).unwrap_err().to_string();
            assert!(words.iter().all(|w| text.contains(w)), "{status}: {text}");
        }
    }
    let gone = Server::start(|_| Reply::new(200, "")).url();
    let error = fetch("hf:a/b", &options(&folder, &gone)).unwrap_err();
    assert!(matches!(error, SourceError::Connection { .. }), "{error}");
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn answers_that_would_lead_out_of_the_cache_are_refused() {
    let folder = Folder::new();
    let head = |etag: &str, commit: &str| Reply::new(200, "{}").with("etag", etag).with("x-repo-commit", commit);
    for reply in [
        head("\"../../../x\"", COMMIT),
        head("\"..\"", COMMIT),
        head("\"\"", COMMIT),
        head("\"abc\"", "../../x"),
        head("\"abc\"", ""),
        Reply::new(200, "{}").with("x-repo-commit", COMMIT),
        Reply::new(302, "").with("location", "file:///etc/passwd"),
        Reply::new(302, ""),
        Reply::new(302, "").with("location", "/a/b/resolve/main/m.gguf"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = fetch("hf:a/b:m.gguf", &options(&folder, &server.url())).unwrap_err();
        assert!(matches!(error, SourceError::BadAnswer { .. }), "{error}");
    }
    let list =
        Server::start(|_| Reply::new(200, r#"{"siblings":[{"rfilename":"../../x.gguf"},{"rfilename":"/y.gguf"}]}"#));
    let error = fetch("hf:a/b", &options(&folder, &list.url())).unwrap_err();
    assert!(matches!(error, SourceError::Choose { .. }), "{error}");
    let rubbish = Server::start(|_| Reply::new(200, "<html>"));
    assert!(matches!(fetch("hf:a/b", &options(&folder, &rubbish.url())), Err(SourceError::BadAnswer { .. })));
    let inside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(inside, ["hub"], "something was written beside the cache");
}

#[test]
fn a_repository_is_read_by_its_usual_file_or_its_folder() {
    let folder = Folder::new();
    let path = folder.file("m.gguf");
    let gguf = |v: f32| {
        let writer = GgufWriter::new().meta("general.architecture", "llama");
        writer.tensor("output_norm.weight", DType::F32, &[1], f32s(&[v])).write(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
    let hub = Hub::good(&[("m-Q8_0.gguf", gguf(8.0)), ("m-Q4_K_M.gguf", gguf(4.0))]);
    let found = fetch("hf:a/b", &options(&folder, &hub.server.url())).unwrap();
    assert!(found.ends_with("m-Q4_K_M.gguf"), "{}", found.display());

    let folder = Folder::new();
    let weights = folder.file("w.safetensors");
    SafetensorsWriter::new().tensor("model.norm.weight", DType::F32, &[1], f32s(&[1.0])).write(&weights).unwrap();
    let config = r#"{"model_type":"llama","hidden_size":4,"intermediate_size":8,"num_hidden_layers":1,
        "num_attention_heads":1,"vocab_size":3}"#;
    let hub = Hub::good(&[
        ("config.json", config.into()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", std::fs::read(&weights).unwrap()),
        ("pytorch_model.bin", body(1000)),
    ]);
    let mut options = options(&folder, &hub.server.url());
    let found = fetch("hf:a/b", &options).unwrap();
    let model = ModelFiles::open(&found).unwrap();
    assert!(model.tensor("model.norm.weight").is_some() && model.tokenizer_json().is_some());
    assert!(!found.join("pytorch_model.bin").exists(), "what is not read is not fetched");
    options.offline = true;
    assert_eq!(fetch("hf:a/b", &options).unwrap(), found);
    // A folder that lacks its weights (only the settings were fetched by another tool) is not the model.
    std::fs::remove_file(found.join("model.safetensors")).unwrap();
    assert!(matches!(fetch("hf:a/b", &options), Err(SourceError::Offline { .. })));
}
