//! Lists of borrowed things whose memory is kept from call to call.

/// An empty list in the memory of `list`. `A` and `B` are meant to be one type with two lifetimes: a list of borrows
/// can then wait, empty, in something that outlives them. (The standard library collects in place where the types
/// have one layout; were it to stop doing so, this would allocate and `tests/allocations.rs` fail.)
pub(crate) fn reuse<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().filter_map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::reuse;

    #[test]
    fn the_memory_stays_and_nothing_is_left_in_it() {
        let mut list: Vec<&str> = Vec::with_capacity(7);
        let start = list.as_ptr().addr();
        let word = String::from("short-lived");
        list.push(&word);
        let empty: Vec<&'static str> = reuse(list);
        assert_eq!((empty.len(), empty.capacity(), empty.as_ptr().addr()), (0, 7, start));
    }
}
