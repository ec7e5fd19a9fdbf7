//! What is kept beside keys and values: columns, one number a slot, and data about whole pages.

use std::borrow::Cow;

use super::HeadCache;

/// A per-slot number that a press may ask for; it moves with its slot through compaction, fork, save and rewind.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Name, unique in a head.
    pub name: Cow<'static, str>,
    /// One value a slot.
    pub values: Vec<f32>,
}

/// Data about a page as a whole (bounds for page selection, for instance). Compaction and append clear what they
/// touch; the owner recomputes it.
#[derive(Clone, Debug, PartialEq)]
pub struct PageSide {
    /// Name, unique in a head.
    pub name: &'static str,
    /// One entry a page, `None` where it has to be computed again.
    pub pages: Vec<Option<Vec<f32>>>,
}

impl HeadCache {
    /// The column of that name, if a press has added it.
    pub fn column(&self, name: &str) -> Option<&[f32]> {
        self.columns.iter().find(|c| c.name == name).map(|c| c.values.as_slice())
    }

    /// The column of that name, made of zeros where it did not exist.
    pub fn column_mut(&mut self, name: impl Into<Cow<'static, str>>) -> &mut [f32] {
        let name = name.into();
        let at = match self.columns.iter().position(|c| c.name == name) {
            Some(at) => at,
            None => {
                self.columns.push(Column { name, values: vec![0.0; self.positions.len()] });
                self.columns.len() - 1
            }
        };
        &mut self.columns[at].values
    }

    /// Drop the columns: no press will read them.
    pub(crate) fn drop_columns(&mut self) {
        self.columns = Vec::new();
    }

    /// Drop the column of that name.
    pub(crate) fn drop_column(&mut self, name: &str) {
        self.columns.retain(|c| c.name != name);
    }

    /// Columns, for saving.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Data kept about each page under that name (all `None` at first).
    pub fn side_mut(&mut self, name: &'static str) -> &mut [Option<Vec<f32>>] {
        let at = match self.sides.iter().position(|s| s.name == name) {
            Some(at) => at,
            None => {
                self.sides.push(PageSide { name, pages: vec![None; self.pages.len()] });
                self.sides.len() - 1
            }
        };
        &mut self.sides[at].pages
    }

    /// Data kept about each page under that name, if there is any.
    pub fn side(&self, name: &str) -> Option<&[Option<Vec<f32>>]> {
        self.sides.iter().find(|s| s.name == name).map(|s| s.pages.as_slice())
    }

    /// Compute what is missing of it for some pages; `of` is handed a page's bytes and its slots in use.
    pub fn fill_side(
        &mut self,
        name: &'static str,
        pages: std::ops::Range<usize>,
        mut of: impl FnMut(&[u8], usize) -> Vec<f32>,
    ) {
        self.side_mut(name);
        let (tokens, len) = (self.layout.tokens(), self.positions.len());
        let Some(side) = self.sides.iter_mut().find(|s| s.name == name) else { return };
        for page in pages {
            if side.pages[page].is_none() {
                side.pages[page] = Some(of(self.pages.slices()[page], tokens.min(len - page * tokens)));
            }
        }
    }
}
