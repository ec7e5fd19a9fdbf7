//! A bounded forward reader over a file's head.
//!
//! Nothing is allocated by a claimed count: [`Cursor::claim`] first holds the count against the bytes
//! that are left, so a 43-byte file cannot ask for a petabyte.

use crate::error::FileError;
use crate::storage::Storage;

/// Longest head that is read: the largest vocabularies take about 20 MB.
pub(super) const HEAD_MAX: u64 = 128 << 20;
/// Strings and arrays inside arrays, which cost an allocation each: the largest vocabularies with their
/// merges have a million.
const ITEMS_MAX: u64 = 1 << 22;
const WINDOW: u64 = 256 << 10;

/// Reads little-endian fields one after another.
pub(super) struct Cursor<'a> {
    storage: &'a Storage,
    pos: u64,
    window: Vec<u8>,
    window_start: u64,
    items: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Cursor { storage, pos: 0, window: Vec::new(), window_start: 0, items: 0 }
    }

    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes of the file that are not read yet.
    fn left(&self) -> u64 {
        self.storage.len().saturating_sub(self.pos)
    }

    /// The next `need` bytes.
    pub(super) fn bytes(&mut self, need: u64, field: &str) -> Result<&[u8], FileError> {
        self.storage.check(self.pos, need, field)?;
        let end = self.pos + need;
        if end > HEAD_MAX {
            return Err(FileError::TooLarge {
                path: self.storage.path().to_owned(),
                field: format!("the head of the file, at {field},"),
                value: end,
                limit: HEAD_MAX,
            });
        }
        if end > self.window_start + self.window.len() as u64 {
            let size = need.max(WINDOW).min(self.left()) as usize;
            self.window.resize(size, 0);
            self.window_start = self.pos;
            self.storage.read_at(self.pos, &mut self.window, field)?;
        }
        let at = (self.pos - self.window_start) as usize;
        self.pos = end;
        Ok(&self.window[at..at + need as usize])
    }

    /// `N` bytes as an array.
    pub(super) fn take<const N: usize>(&mut self, field: &str) -> Result<[u8; N], FileError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N as u64, field)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.take(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.take(field)?))
    }

    /// A count of things that take at least `least` bytes each, as a usize that is safe to allocate by.
    pub(super) fn claim(&self, count: u64, least: u64, limit: u64, field: &str) -> Result<usize, FileError> {
        if count > limit {
            return Err(FileError::TooLarge {
                path: self.storage.path().to_owned(),
                field: field.to_owned(),
                value: count,
                limit,
            });
        }
        let need = count.saturating_mul(least);
        self.storage.check(self.pos, need, field)?;
        Ok(count as usize)
    }

    /// The same for elements that are strings or arrays: their sum over the whole head is limited too.
    pub(super) fn claim_items(&mut self, count: u64, least: u64, field: &str) -> Result<usize, FileError> {
        let n = self.claim(count, least, ITEMS_MAX.saturating_sub(self.items), field)?;
        self.items += n as u64;
        Ok(n)
    }

    /// A string of at most `limit` bytes: u64 length, then UTF-8.
    pub(super) fn string(&mut self, limit: u64, field: &str) -> Result<String, FileError> {
        let len = self.u64(field)?;
        let at = self.pos;
        if len > limit {
            return Err(FileError::TooLarge {
                path: self.storage.path().to_owned(),
                field: format!("the length of {field}"),
                value: len,
                limit,
            });
        }
        let bytes = self.bytes(len, field)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => {
                let bad = at + e.valid_up_to() as u64;
                Err(FileError::malformed(self.storage.path(), field, format!("not UTF-8 at byte {bad} of the file")))
            }
        }
    }
}
