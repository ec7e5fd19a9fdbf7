//! Files out of a zip archive: wheels, NumPy's `.npz`, PyTorch's `.pt`.
//!
//! Only what those use: the central directory, stored and deflated entries, no zip64, no encryption. An
//! entry's name is compared with what we look for and never becomes a path, and no more bytes come out
//! than the directory has announced, so an archive cannot write elsewhere or swell.

use std::io::Write;
use std::path::Path;

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

use crate::error::FileError;
use crate::storage::Storage;

const END: [u8; 4] = *b"PK\x05\x06";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// The end record, and the longest comment behind it.
const END_LEN: u64 = 22;
const COMMENT_MAX: u64 = 65_535;
/// A directory of such an archive is a few kB.
const DIRECTORY_MAX: u64 = 16 << 20;
const CHUNK: usize = 256 << 10;

/// An open archive.
pub(crate) struct Zip {
    storage: Storage,
    entries: Vec<Entry>,
}

/// One file in it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Length once unpacked.
    pub(crate) size: u64,
    packed: u64,
    method: u16,
    local: u64,
}

impl Zip {
    pub(crate) fn open(path: &Path) -> Result<Zip, FileError> {
        let storage = Storage::open(path)?;
        let entries = directory(&storage)?;
        Ok(Zip { storage, entries })
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Unpacks an entry into `out`; `step` hears of every piece written.
    pub(crate) fn unpack(
        &self,
        entry: &Entry,
        out: &mut dyn Write,
        step: &mut dyn FnMut(u64),
    ) -> Result<(), FileError> {
        let start = self.data_start(entry)?;
        self.storage.check(start, entry.packed, &entry.name)?;
        match entry.method {
            0 => self.copy(entry, start, out, step),
            8 => self.inflate(entry, start, out, step),
            other => Err(self.bad(entry, format!("compression method {other} is not read"))),
        }
    }

    /// Behind the entry's own head, whose name and extra field may differ in length from the directory's.
    fn data_start(&self, entry: &Entry) -> Result<u64, FileError> {
        let mut head = [0; 30];
        self.storage.read_at(entry.local, &mut head, &entry.name)?;
        if head[..4] != LOCAL {
            return Err(self.bad(entry, "there is no local header where the directory says".into()));
        }
        Ok(entry.local + 30 + u64::from(u16_at(&head, 26)) + u64::from(u16_at(&head, 28)))
    }

    fn copy(&self, entry: &Entry, start: u64, out: &mut dyn Write, step: &mut dyn FnMut(u64)) -> Result<(), FileError> {
        if entry.packed != entry.size {
            return Err(self.bad(entry, "a stored entry has two lengths".into()));
        }
        let mut done = 0;
        while done < entry.size {
            let n = (entry.size - done).min(CHUNK as u64);
            let piece = self.storage.read_vec(start + done, n, &entry.name)?;
            self.put(entry, out, &piece)?;
            done += n;
            step(n);
        }
        Ok(())
    }

    fn inflate(
        &self,
        entry: &Entry,
        start: u64,
        out: &mut dyn Write,
        step: &mut dyn FnMut(u64),
    ) -> Result<(), FileError> {
        let mut state = InflateState::new_boxed(DataFormat::Raw);
        let mut piece = vec![0; CHUNK];
        let (mut read, mut written) = (0, 0);
        let (mut input, mut at): (Vec<u8>, usize) = (Vec::new(), 0);
        loop {
            if at == input.len() && read < entry.packed {
                let n = (entry.packed - read).min(CHUNK as u64);
                input = self.storage.read_vec(start + read, n, &entry.name)?;
                at = 0;
                read += n;
            }
            let result = inflate(&mut state, &input[at..], &mut piece, MZFlush::None);
            at += result.bytes_consumed;
            let n = result.bytes_written as u64;
            written += n;
            if written > entry.size {
                return Err(self.bad(entry, format!("it unpacks to more than the {} bytes announced", entry.size)));
            }
            self.put(entry, out, &piece[..result.bytes_written])?;
            step(n);
            match result.status {
                Ok(MZStatus::StreamEnd) if written == entry.size => return Ok(()),
                Ok(MZStatus::StreamEnd) => {
                    return Err(self.bad(entry, format!("it ends at {written} of {} bytes", entry.size)));
                }
                Ok(_) if n > 0 || result.bytes_consumed > 0 => {}
                other => return Err(self.bad(entry, format!("the compressed data is damaged ({other:?})"))),
            }
        }
    }

    fn put(&self, entry: &Entry, out: &mut dyn Write, piece: &[u8]) -> Result<(), FileError> {
        out.write_all(piece).map_err(|e| FileError::io(self.storage.path(), format!("unpack {}", entry.name), e))
    }

    fn bad(&self, entry: &Entry, problem: String) -> FileError {
        FileError::malformed(self.storage.path(), &entry.name, problem)
    }
}

fn directory(storage: &Storage) -> Result<Vec<Entry>, FileError> {
    let bad = |problem: &str| FileError::malformed(storage.path(), "the zip directory", problem);
    let tail_len = storage.len().min(END_LEN + COMMENT_MAX);
    let tail = storage.read_vec(storage.len() - tail_len, tail_len, "the end of the zip archive")?;
    let end = tail.windows(END_LEN as usize).rposition(|w| w[..4] == END);
    let end = end.ok_or_else(|| bad("there is none; is this a wheel or another zip archive?"))?;
    let record = &tail[end..];
    let (count, size, offset) = (u16_at(record, 10), u32_at(record, 12), u32_at(record, 16));
    if count == u16::MAX || offset == u32::MAX {
        return Err(bad("it is in zip64 format, which archives of this size do not need"));
    }
    let size = u64::from(size);
    if size > DIRECTORY_MAX {
        return Err(bad("it is longer than 16 MB"));
    }
    let bytes = storage.read_vec(u64::from(offset), size, "the zip directory")?;
    let mut rest = &bytes[..];
    let mut entries = Vec::new();
    for _ in 0..count {
        if rest.len() < 46 || rest[..4] != ENTRY {
            return Err(bad("it is shorter than its number of entries"));
        }
        let (name, skip) =
            (usize::from(u16_at(rest, 28)), usize::from(u16_at(rest, 30)) + usize::from(u16_at(rest, 32)));
        if rest.len() < 46 + name + skip {
            return Err(bad("an entry's name leaves it"));
        }
        if u16_at(rest, 8) & 1 != 0 {
            return Err(bad("an entry is encrypted"));
        }
        entries.push(Entry {
            name: String::from_utf8_lossy(&rest[46..46 + name]).into_owned(),
            size: u32_at(rest, 24).into(),
            packed: u32_at(rest, 20).into(),
            method: u16_at(rest, 10),
            local: u32_at(rest, 42).into(),
        });
        rest = &rest[46 + name + skip..];
    }
    Ok(entries)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
#[path = "../tests/common/zip.rs"]
mod written;

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything in a wheel of these bytes, or the first error.
    fn unpacked(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, FileError> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("meden-wheel-{}-{n}.whl", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let read = Zip::open(&path).and_then(|wheel| {
            let one = |e: &Entry| {
                let mut out = Vec::new();
                wheel.unpack(e, &mut out, &mut |_| {}).map(|()| (e.name.clone(), out))
            };
            wheel.entries().iter().map(one).collect()
        });
        std::fs::remove_file(&path).unwrap();
        read
    }

    fn good() -> (Vec<u8>, Vec<u8>) {
        let long: Vec<u8> = (0..700_000u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        (written::zip(&[("a/long.gguf", &long, true), ("b", b"short", false), ("empty", b"", true)]), long)
    }

    #[test]
    fn entries_come_out_whole() {
        let (bytes, long) = good();
        let all = unpacked(&bytes).unwrap();
        assert_eq!(all.len(), 3);
        assert!(all[0] == ("a/long.gguf".into(), long), "the deflated entry differs");
        assert_eq!(all[1], ("b".into(), b"short".to_vec()));
        assert_eq!(all[2], ("empty".into(), vec![]));
        assert!(unpacked(&[&bytes[..], b"no comment"].concat()).is_ok(), "bytes behind the archive");
    }

    #[test]
    fn a_wheel_that_swells_lies_or_is_no_wheel_is_refused() {
        let (bytes, _) = good();
        let entry = bytes.windows(4).position(|w| w == ENTRY).unwrap();
        let changed = |at: usize, to: &[u8]| {
            let mut b = bytes.clone();
            b[at..at + to.len()].copy_from_slice(to);
            unpacked(&b).unwrap_err().to_string()
        };
        assert!(changed(entry + 24, &[9, 0, 0, 0]).contains("more than the 9 bytes announced"));
        assert!(changed(entry + 24, &[255, 255, 255, 0]).contains("it ends at 2800000"));
        assert!(changed(entry + 8, &[1]).contains("encrypted"));
        assert!(changed(entry + 10, &[99]).contains("method 99"));
        assert!(changed(entry + 42, &[7]).contains("no local header"));
        assert!(changed(entry + 20, &[255, 255, 255, 255]).contains("cut short"));
        assert!(changed(bytes.len() - 12, &[255, 255]).contains("zip64"));
        assert!(unpacked(b"PK nothing").unwrap_err().to_string().contains("is this a wheel or another zip archive?"));
        assert!(unpacked(b"").is_err());
    }

    #[test]
    fn damage_anywhere_is_an_error_or_other_bytes_and_never_a_panic() {
        let small: Vec<u8> = (0..200u8).collect();
        let bytes = written::zip(&[("a", &small, true), ("b", &small, false)]);
        for at in 0..bytes.len() {
            let mut b = bytes.clone();
            b[at] = !b[at];
            let _ = unpacked(&b);
            let _ = unpacked(&bytes[..at]);
        }
    }
}
