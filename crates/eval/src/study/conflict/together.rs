//! Several places at once, one thread each.

use std::panic::resume_unwind;

/// Does some pieces of work side by side; results come in the order of the work.
pub(super) fn together<T: Sync, R: Send>(work: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let of = &of;
        let running: Vec<_> = work.iter().map(|one| scope.spawn(move || of(one))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_the_order_of_the_work() {
        assert_eq!(super::together(&[3u64, 1, 2], |n| n * n), [9, 1, 4]);
        assert!(super::together(&[], |n: &u64| *n).is_empty());
    }
}
