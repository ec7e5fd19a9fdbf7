//! Memory for weights: read over and over, never changed, given back with the model.
//!
//! Decoding reads every weight once a token, so what counts is how fast memory streams. A matrix of a small model
//! has half a megabyte, too little for a huge page of its own; put beside each other in regions aligned to 2 MiB,
//! matrices lie in huge pages and reading them takes a page-table walk every 2 MiB instead of every 4 KiB.
//! On a virtual Xeon that made decoding with two threads 7 to 10% faster.

use super::os;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Smallest length that is worth a place in a region.
const LEAST: usize = 64 << 10;
/// Bytes of a region, unless one matrix needs more. Memory of it that nobody uses is never touched.
const REGION: usize = 32 << 20;
/// Where matrices begin: a cache line, and a whole vector of any width.
const ALIGN: usize = 64;

/// The region that has room left; regions live as long as a matrix in them.
static CURRENT: Mutex<Weak<Region>> = Mutex::new(Weak::new());

/// Bytes that were written once, when they were made.
pub(crate) enum Resident {
    Small(Box<[u8]>),
    Placed(Placed),
}

/// A run of bytes in a region, nobody else's.
pub(crate) struct Placed {
    start: NonNull<u8>,
    len: usize,
    _region: Arc<Region>,
}

struct Region {
    map: os::HugeMap,
    /// Bytes that are given out.
    used: Mutex<usize>,
}

// SAFETY: the map is owned, and bytes of it are reached only through the one `Placed` that has them.
unsafe impl Send for Region {}
// SAFETY: as above; `used` has its lock.
unsafe impl Sync for Region {}
// SAFETY: a `Placed` owns its bytes as a box does.
unsafe impl Send for Placed {}
// SAFETY: as above; shared, they are only read.
unsafe impl Sync for Placed {}

impl Resident {
    /// `len` zeros, which `fill` then writes.
    pub(crate) fn new(len: usize, fill: impl FnOnce(&mut [u8])) -> Resident {
        let Some(mut placed) = (len >= LEAST).then(|| Placed::new(len)).flatten() else {
            let mut small = vec![0; len].into_boxed_slice();
            fill(&mut small);
            return Resident::Small(small);
        };
        // SAFETY: the run lies in its region, is zeroed, and nobody else has it.
        fill(unsafe { std::slice::from_raw_parts_mut(placed.start.as_mut(), len) });
        Resident::Placed(placed)
    }
}

impl Deref for Resident {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Resident::Small(bytes) => bytes,
            // SAFETY: as in `new`; it was initialised and is not written any more.
            Resident::Placed(placed) => unsafe { std::slice::from_raw_parts(placed.start.as_ptr(), placed.len) },
        }
    }
}

impl Placed {
    /// A place in the current region, or in a new one; `None` when the system has no memory to map.
    fn new(len: usize) -> Option<Placed> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = current.upgrade()
            && let Some(start) = region.take(len)
        {
            return Some(Placed { start, len, _region: region });
        }
        let map = os::HugeMap::new(len.max(REGION))?;
        let region = Arc::new(Region { map, used: Mutex::new(0) });
        let start = region.take(len)?;
        *current = Arc::downgrade(&region);
        Some(Placed { start, len, _region: region })
    }
}

impl Region {
    fn take(&self, len: usize) -> Option<NonNull<u8>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *used;
        let end = start.checked_add(len).filter(|&end| end <= self.map.len())?;
        *used = end.next_multiple_of(ALIGN);
        // SAFETY: `start` lies within the mapping.
        Some(unsafe { self.map.start().add(start) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_zeroed_apart_and_keep_what_was_written() {
        let make = |len: usize, value: u8| {
            Resident::new(len, |bytes| {
                assert!(bytes.iter().all(|&b| b == 0));
                bytes.fill(value);
            })
        };
        // More than one region, lengths that are no multiples of the alignment, and one larger than a region.
        let lens = [0, 100, LEAST, LEAST + 1, REGION / 2, REGION / 2, REGION + 5, LEAST];
        let all: Vec<Resident> = lens.iter().zip(1..).map(|(&len, value)| make(len, value)).collect();
        for ((bytes, len), value) in all.iter().zip(lens).zip(1u8..) {
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|&b| b == value));
            assert!(len < LEAST || bytes.as_ptr().addr().is_multiple_of(ALIGN));
        }
    }
}
