//! Folders of images: any files under a path, or one folder a class.

use std::path::{Path, PathBuf};

use crate::error::VisionError;

/// Endings that count as images when a folder is listed; a file that is named directly may have any.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Images with their classes.
#[derive(Clone, Debug, Default)]
pub struct Labelled {
    /// Class names, sorted; a label is an index here.
    pub classes: Vec<String>,
    /// Files, class by class, sorted by name.
    pub paths: Vec<PathBuf>,
    /// The class of each file.
    pub labels: Vec<usize>,
}

/// Every image under a path: the file itself, or a folder with all folders in it, sorted.
///
/// # Errors
/// A path that cannot be listed, or a folder without images.
pub fn images_under(path: &Path) -> Result<Vec<PathBuf>, VisionError> {
    let fail = |e: std::io::Error| VisionError::image(path, format!("cannot be read: {e}"), "check the path");
    if std::fs::metadata(path).map_err(fail)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    collect(path, &mut found, 0)?;
    if found.is_empty() {
        let fix = format!("images end in {}", ENDINGS.map(|e| format!(".{e}")).join(", "));
        return Err(VisionError::image(path, "there is no image in this folder", &fix));
    }
    found.sort();
    Ok(found)
}

/// `root/<class>/*`: each folder in `root` is a class.
///
/// # Errors
/// A folder that cannot be listed, holds no class folder, or a class without images.
pub fn image_folder(root: &Path) -> Result<Labelled, VisionError> {
    let mut all = Labelled::default();
    let mut folders = Vec::new();
    for entry in entries(root)? {
        if entry.is_dir() {
            folders.push(entry);
        }
    }
    folders.sort();
    if folders.is_empty() {
        let fix = "put the images of each class into a folder of its own: root/<class>/*.jpg";
        return Err(VisionError::image(root, "there is no class folder in it", fix));
    }
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = images_under(&folder)?;
        all.labels.extend(std::iter::repeat_n(all.classes.len(), files.len()));
        all.paths.extend(files);
        all.classes.push(name);
    }
    Ok(all)
}

/// Deeper than any collection of images; a link that leads back into itself ends here.
const DEEPEST: usize = 32;

fn collect(folder: &Path, found: &mut Vec<PathBuf>, depth: usize) -> Result<(), VisionError> {
    if depth > DEEPEST {
        let problem = format!("folders are nested more than {DEEPEST} deep");
        return Err(VisionError::image(folder, problem, "does a link lead back into this folder?"));
    }
    for entry in entries(folder)? {
        if entry.is_dir() {
            collect(&entry, found, depth + 1)?;
        } else if entry.extension().is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known))) {
            found.push(entry);
        }
    }
    Ok(())
}

/// What lies in a folder, hidden files left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, VisionError> {
    let fail = |e: std::io::Error| VisionError::image(folder, format!("cannot be listed: {e}"), "check the path");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            all.push(entry.path());
        }
    }
    Ok(all)
}
