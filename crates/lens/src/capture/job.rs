//! A file of activations under way: opened or taken up, filled prompt by prompt, given its name.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use meden_engine::{Control, EngineError, Session};
use meden_files::{AtomicFile, FileError};
use serde_json::{Map, Value};

use super::copy::Sink;
use super::file::CaptureFile;
use super::generate::generated;
use super::layout::{Layout, read_mark};
use super::write::{Dtype, FileCapture, metadata};
use super::{RowOf, Selection, read_prompt};
use crate::error::LensError;
use crate::place::Positions;

/// A file under way.
pub(super) struct Job {
    path: PathBuf,
    file: File,
    layout: Layout,
    dtype: Dtype,
    metadata: Map<String, Value>,
    selection: Selection,
    /// Prompts that are in it.
    pub(super) prompts: usize,
    /// Rows of each place that are in it.
    pub(super) rows: usize,
    reserved: usize,
    /// The finished file is there already.
    whole: bool,
}

impl Job {
    pub(super) fn open(
        session: &Session,
        prompts: &[Vec<u32>],
        selection: &Selection,
        options: &FileCapture,
    ) -> Result<Job, LensError> {
        let config = session.model().config();
        if selection.positions == Positions::None && options.generate.is_none() {
            return Err(LensError::setting("positions", "none", "nothing would be captured: generate tokens too"));
        }
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            return Err(EngineError::NoTokens.into());
        }
        let most = options.generate.as_ref().map_or(0, |g| g.tokens);
        let mut reserved = 0usize;
        for ids in prompts {
            reserved += selection.positions.count(ids.len())? + most;
        }
        let widths: Vec<usize> = selection.places.iter().map(|p| p.width(config)).collect();
        let metadata = metadata(session, prompts, selection, options);
        let (target, partial) = (&options.path, partial(&options.path));
        let size = (reserved, options.dtype);
        let layout = Layout::new(target, &selection.places, &widths, size, &metadata)?;
        let mut job = Job {
            path: partial.clone(),
            file: if target.exists() { open(target)? } else { open_locked(&partial)? },
            layout,
            dtype: options.dtype,
            metadata,
            selection: selection.clone(),
            prompts: 0,
            rows: 0,
            reserved,
            whole: target.exists(),
        };
        if job.whole {
            let there = CaptureFile::open(target)?;
            if !there.is_of(&job.metadata) || there.prompts() != prompts.len() {
                return Err(another(target, "is a file of another capture"));
            }
            (job.prompts, job.rows) = (prompts.len(), there.len());
            return Ok(job);
        }
        let there = job.file.metadata().map_err(|e| FileError::io(&partial, "read", e))?.len();
        if there == 0 {
            job.write_at(0, &job.layout.head.clone())?;
            job.file.set_len(job.layout.len).map_err(|e| FileError::io(&partial, "write", e))?;
        } else {
            job.resume(there)?;
        }
        Ok(job)
    }

    /// Takes up a file that an earlier run left.
    fn resume(&mut self, len: u64) -> Result<(), LensError> {
        let mut head = vec![0; self.layout.head.len()];
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_exact(&mut head));
        let (at, mark) = self.layout.mark(0, 0);
        let mark = at as usize..at as usize + mark.len();
        let done = head.get(mark.clone()).and_then(|m| std::str::from_utf8(m).ok()).and_then(read_mark);
        let same = read.is_ok()
            && len == self.layout.len
            && head[..mark.start] == self.layout.head[..mark.start]
            && head[mark.end..] == self.layout.head[mark.end..];
        match done.filter(|&(_, rows)| same && rows <= self.reserved) {
            Some((prompts, rows)) => (self.prompts, self.rows) = (prompts, rows),
            None => return Err(another(&self.path, "was left by another capture")),
        }
        Ok(())
    }

    pub(super) fn prompt(
        &mut self,
        session: &Session,
        ids: &[u32],
        selection: &Selection,
        options: &FileCapture,
        control: &mut Control<'_>,
    ) -> Result<(), LensError> {
        let number = self.prompts;
        let wanted = selection.positions.resolve(ids.len())?;
        let mut index: Vec<RowOf> =
            wanted.iter().map(|&position| RowOf { prompt: number, position, id: ids[position] }).collect();
        let base = self.rows;
        match &options.generate {
            None => read_prompt(session, ids, selection, &mut Rows { job: self, base }, control)?,
            Some(generate) => {
                let selection = self.selection.clone();
                let mut sink = Rows { job: self, base };
                let written = generated(session, ids, (&selection, generate), &mut sink, control)?;
                let row = |(i, &id): (usize, &u32)| RowOf { prompt: number, position: ids.len() + i, id };
                index.extend(written.iter().enumerate().map(row));
            }
        }
        self.index(base, &index)?;
        self.rows = base + index.len();
        self.prompts += 1;
        // behind the rows it speaks of, so that a run that dies here is taken up where it was
        let (at, mark) = self.layout.mark(self.prompts, self.rows);
        self.write_at(at, mark.as_bytes())
    }

    /// Where the rows from `base` on come from.
    fn index(&mut self, base: usize, rows: &[RowOf]) -> Result<(), LensError> {
        let columns: [fn(&RowOf) -> u64; 3] = [|r| r.prompt as u64, |r| r.position as u64, |r| u64::from(r.id)];
        for (column, start) in columns.into_iter().zip(self.layout.index) {
            let bytes: Vec<u8> = rows.iter().flat_map(|r| (column(r) as i32).to_le_bytes()).collect();
            self.write_at(start + 4 * base as u64, &bytes)?;
        }
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<(), LensError> {
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| FileError::io(&self.path, "write", e).into())
    }

    /// Gives the file its name; one that has fewer rows than were kept free for it is copied without the gaps.
    pub(super) fn finish(mut self, target: &Path) -> Result<u64, LensError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |e| LensError::from(FileError::io(&path, "write", e))
        };
        if self.whole {
            return Ok(self.file.metadata().map_err(fail(target))?.len());
        }
        if self.rows == self.reserved {
            self.file.sync_all().map_err(fail(&self.path))?;
            std::fs::rename(&self.path, target).map_err(fail(target))?;
            return Ok(self.layout.len);
        }
        let widths = self.layout.widths.clone();
        let size = (self.rows, self.dtype);
        let layout = Layout::new(target, &self.selection.places, &widths, size, &self.metadata)?;
        let mut out = AtomicFile::create(target)?;
        out.write_all(&layout.marked_head(self.prompts, self.rows)).map_err(fail(target))?;
        let index = self.layout.index.map(|start| (start, 4 * self.rows as u64));
        let tensors = self.layout.tensors.iter().zip(&widths);
        let tensors = tensors.map(|(&start, &width)| (start, (self.rows * width) as u64 * self.layout.value));
        for (start, bytes) in index.into_iter().chain(tensors) {
            self.file.seek(SeekFrom::Start(start)).map_err(fail(&self.path))?;
            std::io::copy(&mut (&self.file).take(bytes), &mut out).map_err(fail(target))?;
        }
        out.commit()?;
        std::fs::remove_file(&self.path).map_err(fail(&self.path))?;
        Ok(layout.len)
    }
}

/// Rows of one prompt, the first of which is row `base` of the file.
struct Rows<'a> {
    job: &'a mut Job,
    base: usize,
}

impl Sink for Rows<'_> {
    fn take(&mut self, place: usize, first: usize, rows: &[f32]) -> Result<(), LensError> {
        let at = self.job.layout.row(place, self.base + first);
        match self.job.dtype {
            Dtype::F32 => self.job.write_at(at, &little_endian(rows)),
            Dtype::F16 => {
                // half of the step behind the largest number is where rounding goes to infinity
                if let Some(&value) = rows.iter().find(|v| v.is_finite() && v.abs() >= 65520.0) {
                    let place = self.job.selection.places[place];
                    let (site, dtype) = (place.site.name().to_owned(), "f16");
                    return Err(LensError::TooLarge { value, site, layer: place.layer, dtype });
                }
                let mut short = vec![half::f16::ZERO; rows.len()];
                short.convert_from_f32_slice(rows);
                self.job.write_at(at, &short_bytes(bytemuck::cast_slice(&short)))
            }
            Dtype::Bf16 => {
                let mut short = vec![half::bf16::ZERO; rows.len()];
                short.convert_from_f32_slice(rows);
                self.job.write_at(at, &short_bytes(bytemuck::cast_slice(&short)))
            }
        }
    }
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn short_bytes(values: &[u16]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    target.with_file_name(name)
}

fn another(path: &Path, what: &str) -> LensError {
    LensError::Unfit {
        path: path.to_owned(),
        why: format!(
            "{what} (another model, prompts, sites, layers, positions or element type): remove it, or write elsewhere"
        ),
    }
}

fn open(path: &Path) -> Result<File, LensError> {
    File::open(path).map_err(|e| FileError::io(path, "open", e).into())
}

/// A file that no other process is filling.
fn open_locked(path: &Path) -> Result<File, LensError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.map_err(|e| FileError::io(path, "create", e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LensError::Unfit {
            path: path.to_owned(),
            why: "another process is writing it: wait for it, or write elsewhere".into(),
        }),
        Err(TryLockError::Error(e)) => Err(FileError::io(path, "lock", e).into()),
    }
}
