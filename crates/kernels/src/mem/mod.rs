//! Memory the operating system can see coming and going: a read-only mapped file, and a slab of equal pages whose
//! free pages really go back.
//!
//! The general allocator is not used for the cache, because it keeps freed memory for itself at a granularity nobody
//! can predict; "the cache is smaller now" must be true of the process, not of a counter.

mod counting;
mod mapped;
mod os;
mod pages;
mod slab;
mod table;
pub(crate) mod weights;

pub use counting::CountingAllocator;
pub use mapped::MappedFile;
pub use slab::{PageBuf, Slab};
pub use table::PageTable;

/// Bytes of an operating system page that sizes and alignments here are multiples of.
pub const OS_PAGE: usize = 4096;
