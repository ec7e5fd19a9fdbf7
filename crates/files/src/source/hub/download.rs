//! One file of the hub: resumed where it broke off, checked, put under its hash.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ureq::http::{HeaderMap, StatusCode};

use super::cache::{BRANCH, Repo, is_plain, make_parent};
use super::http::{Answer, Client, header};
use super::{Progress, SourceError};
use crate::hash::Hash;

/// Times that a connection may break without [`STEP`] bytes of progress.
const PATIENCE: u32 = 4;
const STEP: u64 = 1 << 20;

/// Fetches a file into the cache and gives its path in the snapshot.
pub(super) fn file(
    client: &Client,
    repo: &Repo,
    file: &str,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let path = format!("/{}/resolve/{BRANCH}/{}", client.repo(), escape(file));
    let facts = facts(client, &client.head(&path, file)?, file)?;
    let blob = repo.blob(&facts.etag);
    let there = std::fs::metadata(&blob).is_ok_and(|m| m.is_file() && m.len() == facts.size);
    if !there {
        make_parent(&blob)?;
        let part = blob.with_file_name(format!("{}.incomplete", facts.etag));
        let download = Download { client, path: &path, file, part: &part, size: facts.size };
        download.run(progress)?;
        check(file, &part, &facts, progress)?;
        std::fs::rename(&part, &blob).map_err(|e| SourceError::io(&blob, "write", e))?;
    }
    repo.link(&facts.commit, file, &facts.etag)
}

/// What the hub says about a file.
struct Facts {
    /// Name of the blob: SHA-256 of large files, git's hash of small ones.
    etag: String,
    commit: String,
    /// Bytes.
    size: u64,
}

fn facts(client: &Client, headers: &HeaderMap, file: &str) -> Result<Facts, SourceError> {
    let lacks = |name: &str| client.nonsense(file, format!("there is no usable header {name}"));
    let either = |a, b| header(headers, a).or_else(|| header(headers, b));
    let etag = either("x-linked-etag", "etag").ok_or_else(|| lacks("etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    let commit = header(headers, "x-repo-commit").unwrap_or_default().to_owned();
    let size = either("x-linked-size", "content-length").and_then(|n| n.parse().ok());
    // Both become names of files.
    if !is_plain(&etag) {
        return Err(lacks("etag"));
    }
    if !is_plain(&commit) {
        return Err(lacks("x-repo-commit"));
    }
    Ok(Facts { etag, commit, size: size.ok_or_else(|| lacks("content-length"))? })
}

/// A file on its way.
struct Download<'a> {
    client: &'a Client,
    path: &'a str,
    file: &'a str,
    part: &'a Path,
    size: u64,
}

impl Download<'_> {
    /// Until the part is whole; a connection that breaks is taken up again where it broke.
    fn run(&self, progress: &mut dyn Progress) -> Result<(), SourceError> {
        let mut out = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.part)
            .map_err(|e| self.io("open", e))?;
        let mut have = out.metadata().map_err(|e| self.io("ask the length of", e))?.len();
        if have > self.size {
            have = 0;
        }
        progress.start(&format!("fetching {}", self.file), Some(self.size));
        progress.advance(have);
        let done = self.attempts(&mut out, have, progress);
        progress.finish();
        done?;
        out.sync_all().map_err(|e| self.io("write", e))
    }

    fn attempts(&self, out: &mut File, mut have: u64, progress: &mut dyn Progress) -> Result<(), SourceError> {
        let mut failures = 0;
        // An empty file has no first byte to ask for.
        while have < self.size {
            let from = (have > 0).then_some(have);
            let problem = match self.client.request(self.path, from, self.size - have, self.file) {
                Ok(answer) => {
                    let start = self.start_of(&answer, have)?;
                    out.set_len(start).map_err(|e| self.io("write", e))?;
                    out.seek(SeekFrom::Start(start)).map_err(|e| self.io("write", e))?;
                    if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
                        "the part here does not belong to the file there".to_owned()
                    } else {
                        let (end, problem) = self.pour(answer, out, start, progress)?;
                        if end >= have + STEP {
                            failures = 0;
                        }
                        problem
                    }
                }
                Err(SourceError::Connection { problem, .. }) => problem,
                Err(e) => return Err(e),
            };
            have = out.metadata().map_err(|e| self.io("ask the length of", e))?.len();
            failures += 1;
            if have < self.size && failures > PATIENCE {
                let (repo, file) = (self.client.repo().to_owned(), self.file.to_owned());
                return Err(SourceError::Truncated { repo, file, got: have, want: self.size, problem });
            }
            if have < self.size {
                std::thread::sleep(std::time::Duration::from_millis(50 << failures));
            }
        }
        Ok(())
    }

    /// The byte that an answer's body begins at.
    fn start_of(&self, answer: &Answer, have: u64) -> Result<u64, SourceError> {
        if answer.status != StatusCode::PARTIAL_CONTENT {
            // The whole file, because the server knows no ranges; or none of it (416).
            return Ok(0);
        }
        let range = header(&answer.headers, "content-range").unwrap_or_default();
        if range.starts_with(&format!("bytes {have}-")) {
            return Ok(have);
        }
        Err(self.client.nonsense(self.file, format!("byte {have} was asked for, content-range is {range:?}")))
    }

    /// Body into the file: where it ended, and why if that was too early.
    fn pour(
        &self,
        answer: Answer,
        out: &mut File,
        start: u64,
        progress: &mut dyn Progress,
    ) -> Result<(u64, String), SourceError> {
        let mut reader = answer.body.into_reader();
        let mut buffer = vec![0; 256 << 10];
        let mut at = start;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((at, "the connection was closed".into())),
                Ok(n) if at + n as u64 > self.size => {
                    let _ = std::fs::remove_file(self.part);
                    return Err(self.client.nonsense(self.file, format!("more than its {} bytes came", self.size)));
                }
                Ok(n) => {
                    out.write_all(&buffer[..n]).map_err(|e| self.io("write", e))?;
                    at += n as u64;
                    progress.advance(n as u64);
                }
                Err(e) => return Ok((at, e.to_string())),
            }
        }
    }

    fn io(&self, action: &'static str, e: std::io::Error) -> SourceError {
        SourceError::io(self.part, action, e)
    }
}

/// Holds what came against the hash that names it; a part that is wrong is deleted, not resumed.
fn check(file: &str, part: &Path, facts: &Facts, progress: &mut dyn Progress) -> Result<(), SourceError> {
    let is_hex = facts.etag.bytes().all(|b| b.is_ascii_hexdigit());
    let (kind, mut hash) = match facts.etag.len() {
        64 if is_hex => ("SHA-256", Hash::sha256()),
        40 if is_hex => ("git hash", Hash::git_blob(facts.size)),
        // A mirror's own tag says nothing about the bytes; their number was checked.
        _ => return Ok(()),
    };
    let fail = |e| SourceError::io(part, "read", e);
    let mut input = File::open(part).map_err(fail)?;
    let mut buffer = vec![0; 1 << 20];
    progress.start(&format!("checking {file}"), Some(facts.size));
    let read = loop {
        match input.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                hash.update(&buffer[..n]);
                progress.advance(n as u64);
            }
            Err(e) => break Err(fail(e)),
        }
    };
    progress.finish();
    read?;
    let found = hash.hex();
    if found.eq_ignore_ascii_case(&facts.etag) {
        return Ok(());
    }
    let _ = std::fs::remove_file(part);
    Err(SourceError::WrongHash { what: file.to_owned(), kind, expected: facts.etag.clone(), found })
}

/// A path for an address: everything but the plainest characters is escaped.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(b.into()),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
