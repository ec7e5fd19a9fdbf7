//! Drives the real binary.

#![allow(dead_code, reason = "each test binary uses some of these")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The binary with arguments; colours and terminals play no part.
pub fn meden<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meden"));
    command.args(args).stdin(Stdio::null());
    command
}

/// What a finished run said.
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output as exactly one JSON object on one line.
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one line is expected: {}\n{}", self.out, self.err);
        let value: Value = serde_json::from_str(&self.out).expect("standard output is JSON");
        assert!(value.is_object(), "{value}");
        value
    }

    /// The one line of an error, after `meden: `.
    pub fn complaint(&self) -> &str {
        let lines: Vec<&str> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "an error is one line: {}", self.err);
        lines[0].strip_prefix("meden: ").expect("errors begin with the program's name")
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("errors are UTF-8"),
        }
    }
}

/// Runs to the end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Said {
    meden(args).output().expect("the binary runs").into()
}

/// Runs to the end with `input` on standard input.
pub fn run_with<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Said {
    let mut child = start(args);
    let mut pipe = child.stdin.take().expect("a pipe");
    // A program that has ended without reading is judged by what it said.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("the binary ends").into()
}

/// Starts with all three streams as pipes.
pub fn start<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Child {
    let mut command = meden(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

/// The reference folder beside the checkout, or a printed line and `None`.
pub fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(part);
    if !path.exists() {
        println!("skipped: no shared/{part} beside this checkout");
        return None;
    }
    Some(path)
}

/// The default model, fetched once; `None` with a printed line where it cannot be had.
pub fn default_model() -> Option<&'static Path> {
    static MODEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let said = run(["pull", "smollm2", "--json"]);
            if said.code == 4 {
                println!("skipped: the default model cannot be fetched here: {}", said.err);
                return None;
            }
            assert_eq!(said.code, 0, "{}", said.err);
            Some(PathBuf::from(said.json()["path"].as_str().expect("a path")))
        })
        .as_deref()
}

/// A folder of this test's own under the build folder.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the build folder is writable");
    folder
}
