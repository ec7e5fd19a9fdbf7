//! `hf:owner/name[:file]`: models of the Hugging Face hub, in the cache that its own tools use.
//!
//! A file that another tool has fetched is found, and what is fetched here is found by other tools.
//! What is in the cache is used without asking the hub; only what is missing is fetched.

mod cache;
mod choose;
mod download;
mod http;

use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{Progress, ResolveOptions, Source, SourceError};
use cache::Repo;
use choose::{Choice, choose};
use http::Client;

/// Largest answer of the file list.
const LIST_MAX: u64 = 16 << 20;

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    owner: String,
    name: String,
    file: Option<String>,
}

impl HubModel {
    /// Reads `owner/name` or `owner/name:file` (the file may lie in folders of the repository).
    pub fn parse(text: &str) -> Result<HubModel, SourceError> {
        let bad = |problem: &str| SourceError::BadHubName { name: text.to_owned(), problem: problem.to_owned() };
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/').ok_or_else(|| bad("there is no owner/name"))?;
        if !is_word(owner) || !is_word(name) {
            return Err(bad("owner and name are letters, digits, '-', '_' and '.', with one '/' between them"));
        }
        if file.is_some_and(|f| !is_inside(f)) {
            return Err(bad("the file's path leaves the repository"));
        }
        Ok(HubModel { owner: owner.to_owned(), name: name.to_owned(), file: file.map(str::to_owned) })
    }

    /// owner/name.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    fn folder(&self, options: &ResolveOptions) -> Repo {
        Repo::new(&options.hub_cache, &self.owner, &self.name)
    }

    /// The files of the repository, by the hub's answer.
    fn list(&self, client: &Client) -> Result<Vec<String>, SourceError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let what = "its list of files";
        let body = client.get(&format!("/api/models/{}", self.repo()), LIST_MAX, what)?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| SourceError::BadAnswer {
            repo: self.repo(),
            what: what.to_owned(),
            problem: e.to_string(),
        })?;
        // A name that leaves the repository is no name that the hub gives out.
        Ok(answer.siblings.into_iter().map(|s| s.rfilename).filter(|n| is_inside(n)).collect())
    }
}

impl Source for HubModel {
    fn local(&self, options: &ResolveOptions) -> Result<Option<PathBuf>, SourceError> {
        let Some(snapshot) = self.folder(options).snapshot() else { return Ok(None) };
        match &self.file {
            Some(file) => Ok(Some(snapshot.join(file)).filter(|p| p.is_file())),
            None => Ok(cached(&snapshot, &self.repo())),
        }
    }

    fn fetch(&self, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
        let folder = self.folder(options);
        let _lock = Lock::take(&folder.lock(), progress)?;
        if let Some(path) = self.local(options)? {
            return Ok(path);
        }
        let client = Client::new(options, self.repo());
        let choice = match &self.file {
            Some(file) => Choice::File(file.clone()),
            None => choose(&self.list(&client)?, &self.repo())?,
        };
        match choice {
            Choice::File(file) => download::file(&client, &folder, &file, progress),
            Choice::Folder(files) => {
                let mut last = PathBuf::new();
                for file in &files {
                    last = download::file(&client, &folder, file, progress)?;
                }
                Ok(last.parent().unwrap_or(&last).to_owned())
            }
        }
    }

    fn advice(&self, options: &ResolveOptions) -> String {
        format!(
            "unset it to fetch hf:{}, or copy it into {} from a machine that has it",
            self.repo(),
            options.hub_cache.display()
        )
    }
}

/// What a snapshot holds, if that is a whole model.
fn cached(snapshot: &Path, repo: &str) -> Option<PathBuf> {
    let names: Vec<String> = std::fs::read_dir(snapshot)
        .ok()?
        .flatten()
        .filter(|e| e.path().is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    match choose(&names, repo).ok()? {
        Choice::File(file) => Some(snapshot.join(file)),
        // Opening reads every head, so a shard that the index names and nobody fetched is noticed.
        Choice::Folder(_) => crate::ModelFiles::open(snapshot).is_ok().then(|| snapshot.to_owned()),
    }
}

/// A component of a repository's name.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 96 && text.chars().all(plain) && !text.starts_with('.') && !text.contains("..")
}

/// A path that stays in the repository, on any system.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 512
        && !path.contains(['\\', ':', '\0', '?', '#', '%'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_ways_out_refused() {
        let model = HubModel::parse("a-b/c.d:sub/x.gguf").unwrap();
        assert_eq!((model.repo().as_str(), model.file.as_deref()), ("a-b/c.d", Some("sub/x.gguf")));
        for bad in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a b/c",
            "a/b:",
            "a/b:../x",
            "a/b:/etc/x",
            "a/b:x\\y",
            "a/b:x//y",
        ] {
            assert!(HubModel::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
