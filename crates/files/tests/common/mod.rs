//! What the tests of this crate share.
#![allow(dead_code)] // each test binary uses its own part of it

pub mod raw;
pub mod server;
pub mod zip;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of its own under the build's temporary folder, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        Self::under(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// In memory where the system has such a place, for tests that write thousands of files.
    pub fn in_memory() -> Folder {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() { Self::under(shm) } else { Self::new() }
    }

    fn under(root: &Path) -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("meden-files-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Little-endian bytes of some f32.
pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `n` numbers that are all different.
pub fn ramp(n: usize) -> Vec<u8> {
    f32s(&(0..n).map(|i| i as f32 + 0.5).collect::<Vec<_>>())
}

/// A folder of the shared material, or `None` with a printed line.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {name} of the shared material is not here");
    None
}

/// Runs one test of this binary again as a child that may map `megabytes` of memory; true when it passed.
/// Only this shows that nothing was allocated by a claimed size: memory that is reserved and not touched
/// stays invisible otherwise.
#[cfg(unix)]
pub fn passes_within(megabytes: u64, test: &str) -> bool {
    let me = std::env::current_exe().unwrap();
    std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {} && exec \"$0\" \"$@\"", megabytes * 1024))
        .arg(me)
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .status()
        .unwrap()
        .success()
}

/// Settings that reach nothing but what a test gives them.
pub fn options(folder: &Folder, endpoint: &str) -> meden_files::source::ResolveOptions {
    meden_files::source::ResolveOptions {
        cache: folder.file("meden"),
        hub_cache: folder.file("hub"),
        endpoint: endpoint.to_owned(),
        token: None,
        offline: false,
        pips: Vec::new(),
    }
}

/// Notes down what it is told.
#[derive(Default)]
pub struct Notes {
    pub started: Vec<(String, Option<u64>)>,
    pub advanced: u64,
    pub open: i64,
    pub notes: Vec<String>,
}

impl meden_files::source::Progress for Notes {
    fn start(&mut self, what: &str, total: Option<u64>) {
        self.started.push((what.to_owned(), total));
        self.open += 1;
    }

    fn advance(&mut self, bytes: u64) {
        self.advanced += bytes;
    }

    fn finish(&mut self) {
        self.open -= 1;
    }

    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
}
