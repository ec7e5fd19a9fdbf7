//! The Hugging Face cache: `models--owner--name/{refs,blobs,snapshots}`.
//!
//! A blob is named by its hash; a snapshot is a folder of links to blobs, named by a commit; a ref says
//! which commit a branch is at. Layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>

use std::path::{Path, PathBuf};

use super::SourceError;

/// The branch that is used.
pub(super) const BRANCH: &str = "main";

/// A repository's folder in the cache.
pub(super) struct Repo {
    folder: PathBuf,
    lock: PathBuf,
}

impl Repo {
    pub(super) fn new(cache: &Path, owner: &str, name: &str) -> Repo {
        let folder = format!("models--{owner}--{name}");
        let lock = cache.join(".locks").join(&folder).join("meden.lock");
        Repo { folder: cache.join(folder), lock }
    }

    /// File to lock while something is fetched.
    pub(super) fn lock(&self) -> PathBuf {
        self.lock.clone()
    }

    /// The snapshot that the branch is at.
    pub(super) fn snapshot(&self) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.folder.join("refs").join(BRANCH)).ok()?;
        let commit = commit.trim();
        is_plain(commit).then(|| self.folder.join("snapshots").join(commit)).filter(|p| p.is_dir())
    }

    /// Where a blob is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Links a blob into the snapshot of a commit and moves the branch there; the file's path.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, SourceError> {
        let link = self.folder.join("snapshots").join(commit).join(file);
        make_parent(&link)?;
        if !link.is_file() {
            // A link whose blob is gone is in the way of a new one.
            let _ = std::fs::remove_file(&link);
            self.place(&link, file, etag).map_err(|e| SourceError::io(&link, "create", e))?;
        }
        let branch = self.folder.join("refs").join(BRANCH);
        make_parent(&branch)?;
        std::fs::write(&branch, commit).map_err(|e| SourceError::io(&branch, "write", e))?;
        Ok(link)
    }

    #[cfg(unix)]
    fn place(&self, link: &Path, file: &str, etag: &str) -> std::io::Result<()> {
        // Relative, so that the cache can be moved: up to the repository's folder, then to the blob.
        let mut target = PathBuf::from("../..");
        for _ in 0..file.matches('/').count() {
            target.push("..");
        }
        std::os::unix::fs::symlink(target.join("blobs").join(etag), link)
    }

    #[cfg(not(unix))]
    fn place(&self, link: &Path, _: &str, etag: &str) -> std::io::Result<()> {
        // Links need a privilege on Windows; a hard link or a copy serves as well.
        let blob = self.blob(etag);
        std::fs::hard_link(&blob, link).or_else(|_| std::fs::copy(&blob, link).map(|_| ()))
    }
}

/// Makes the folder that a file lies in.
pub(super) fn make_parent(path: &Path) -> Result<(), SourceError> {
    match path.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|e| SourceError::io(folder, "create", e)),
        None => Ok(()),
    }
}

/// A name that can be a file's: hashes and commits come from a server and become paths.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 200 && text.chars().all(plain) && !text.starts_with('.')
}
