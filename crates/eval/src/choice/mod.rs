//! Multiple-choice items from anyone's files.

pub mod import;
pub mod item;
pub mod literal;
pub mod table;

pub use import::{Imported, read};
pub use item::Item;
pub use table::Csv;
