//! Slots go: chosen ones, the newest, the oldest.

use super::HeadCache;

impl HeadCache {
    /// Keep the slots named in `keep` (ascending), drop the others; kept slots move down inside the head in place
    /// and the pages that end up empty go back to the slab.
    pub fn retain(&mut self, keep: &[u32]) {
        debug_assert!(keep.windows(2).all(|w| w[0] < w[1]));
        if self.is_by_channel() {
            self.retain_by_channel(keep);
        } else {
            for (to, &from) in keep.iter().enumerate() {
                let from = from as usize;
                if to != from {
                    self.move_slot(from, to);
                }
            }
        }
        retain_in_place(&mut self.positions, keep);
        retain_in_place(&mut self.norms, keep);
        for column in &mut self.columns {
            retain_in_place(&mut column.values, keep);
        }
        self.drop_tail_pages();
    }

    fn move_slot(&mut self, from: usize, to: usize) {
        let layout = self.layout;
        let (from_page, from_at) = self.place(from);
        let (to_page, to_at) = self.place(to);
        if from_page == to_page {
            layout.move_slot(self.page_mut(to_page), from_at, to_at);
        } else {
            let source = self.pages.share(from_page); // a second owner of the source page only, never of the target
            layout.copy_slot(&source, from_at, self.page_mut(to_page), to_at);
        }
    }

    /// Drop every slot from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.positions.len() {
            return;
        }
        self.positions.truncate(len);
        self.norms.truncate(len);
        for column in &mut self.columns {
            column.values.truncate(len);
        }
        if self.is_by_channel() {
            self.truncate_by_channel(len);
        }
        self.drop_tail_pages();
    }

    fn drop_tail_pages(&mut self) {
        if !self.is_by_channel() {
            let used = self.positions.len().div_ceil(self.layout.tokens());
            self.pages.truncate(used);
            for side in &mut self.sides {
                side.pages.truncate(used);
            }
        }
        // A large eviction should not leave large metadata behind either.
        if self.positions.capacity() > 2 * self.positions.len() + 1024 {
            self.positions.shrink_to_fit();
            self.norms.shrink_to_fit();
            self.pages.shrink_to_fit();
            for column in &mut self.columns {
                column.values.shrink_to_fit();
            }
        }
    }

    /// Free whole pages at the front whose positions all lie below `first`; used by sliding-window layers.
    /// Returns the slots dropped.
    pub fn drop_front_pages(&mut self, first: u32) -> usize {
        let old = self.positions.partition_point(|&p| p < first);
        let whole = if self.is_by_channel() {
            (0..self.pages.len()).take_while(|&page| self.slots_of(page).end <= old).count()
        } else {
            old / self.layout.tokens()
        };
        if whole == 0 {
            return 0;
        }
        let slots = self.slots_of(whole - 1).end;
        self.pages.drop_front(whole);
        self.positions.drain(..slots);
        self.norms.drain(..slots);
        for column in &mut self.columns {
            column.values.drain(..slots);
        }
        for side in &mut self.sides {
            side.pages.drain(..whole);
        }
        if self.is_by_channel() {
            self.drop_front_by_channel(whole);
        }
        slots
    }
}

fn retain_in_place<T: Copy>(values: &mut Vec<T>, keep: &[u32]) {
    for (to, &from) in keep.iter().enumerate() {
        values[to] = values[from as usize];
    }
    values.truncate(keep.len());
}
