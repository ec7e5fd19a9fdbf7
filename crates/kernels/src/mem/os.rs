//! What slabs and weights ask of the operating system: map, discard, unmap.

use std::ptr::NonNull;

/// Maps `bytes` of zeroed private memory, or `None` when the system refuses.
///
/// Huge pages are switched off for the range: with them, one live 4 KiB page can keep 2 MiB resident, and a discard
/// of a part of a huge page frees nothing until the kernel happens to split it. The price is a page-table walk every
/// 4 KiB: on a Zen 3 guest, decode attention reads its cache a fifth slower than from huge pages (10.7 against
/// 13.2 GB/s on one core). Memory that really falls is worth that here.
#[cfg(unix)]
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return None;
    }
    #[cfg(target_os = "linux")]
    // SAFETY: the range was mapped just above. A kernel without huge pages answers EINVAL, which is as good.
    unsafe {
        libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE);
    }
    NonNull::new(address.cast())
}

/// Gives the memory of a range back; it stays mapped, and on Linux reads as zeros afterwards.
///
/// # Safety
/// The range must lie in one mapping made by [`map`], at multiples of 4096, and nobody may hold a reference into it.
#[cfg(unix)]
pub(super) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    // SAFETY: by the caller's promise the range is ours and unreferenced. A refusal leaves the pages resident, which
    // is harmless.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED);
    }
}

/// Unmaps a whole mapping.
///
/// # Safety
/// `start` and `bytes` must be those of one [`map`] call, and nobody may hold a reference into it.
#[cfg(unix)]
pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: by the caller's promise nothing refers to the mapping any more.
    unsafe {
        libc::munmap(start.as_ptr().cast(), bytes);
    }
}

/// A huge page, where the processor has them.
const HUGE: usize = 2 << 20;

/// Zeroed private memory, aligned to huge pages and made of them if the system agrees; unmapped when dropped.
pub(super) struct HugeMap {
    mapping: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
}

impl HugeMap {
    /// Maps at least `len` bytes, or `None` when the system refuses.
    pub(super) fn new(len: usize) -> Option<HugeMap> {
        let len = len.checked_next_multiple_of(HUGE)?;
        let mapped = len.checked_add(HUGE)?;
        let mapping = map(mapped)?;
        let skip = mapping.as_ptr().align_offset(HUGE);
        // SAFETY: less than a huge page is skipped, and one more than `len` was mapped.
        let start = unsafe { mapping.add(skip) };
        #[cfg(target_os = "linux")]
        // SAFETY: the range lies in the mapping just made. A kernel without huge pages refuses, which is as good.
        unsafe {
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
        }
        Some(HugeMap { mapping, mapped, start, len })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for HugeMap {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping, and whoever refers into it keeps this value alive.
        unsafe { unmap(self.mapping, self.mapped) };
    }
}

/// Elsewhere chunks come from the global allocator: pages are reused, and memory goes back a chunk at a time.
#[cfg(not(unix))]
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, super::OS_PAGE).ok()?;
    // SAFETY: a chunk has at least one page, so the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// See the Unix version; here the memory stays until its chunk is unmapped.
///
/// # Safety
/// As for the Unix version.
#[cfg(not(unix))]
pub(super) unsafe fn discard(_start: NonNull<u8>, _bytes: usize) {}

/// See the Unix version.
///
/// # Safety
/// As for the Unix version.
#[cfg(not(unix))]
pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    if let Ok(layout) = std::alloc::Layout::from_size_align(bytes, super::OS_PAGE) {
        // SAFETY: by the caller's promise the memory came from `map` with this layout.
        unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
    }
}
