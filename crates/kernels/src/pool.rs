//! A thread pool for sections of tens of microseconds.
//!
//! Decoding one token runs some hundred and fifty parallel sections of about 40 µs each, so starting one
//! must cost about a microsecond: workers spin for a while after each section before they park, and the
//! caller takes part instead of waiting. A section never waits for a worker that has not joined it: when
//! the machine is busy with other work and a worker gets no core, the caller simply does all tasks itself.
//!
//! Which thread runs which task is left to chance; kernels built on this give the same bits whatever the
//! number of threads, because no task's result depends on how the work was cut.

use crate::cores;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of `spin_loop` before a worker parks: about 100 µs on a Zen 3 core, twice the length of a decode
/// section, so that workers stay awake through a token and sleep soon after the last one.
const SPIN: u32 = 6_000;

/// Rounds of spinning (about 20 µs) after which a thread offers its core to others. On a busy machine a
/// worker may have been woken on the caller's core, and would then spin against the one it waits for.
const YIELD: u32 = 1_000;

/// `Shared::state`: low bits count the workers inside the section, `OPEN` says that more may join, and the
/// rest numbers the sections, so that a worker knows a new one from the one it has just left.
const COUNT: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const NEXT: u64 = 1 << 17;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// A section's work as workers see it. The pointer is valid while the section is open or has workers inside.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
}

/// Own cache line each, so that grabbing tasks does not slow the threads that poll `state`.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    job: Line<Cell<Option<Job>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
}

// SAFETY: everything but `job` is Sync by itself. `job` is written only by the caller that holds
// `Pool::section`, while the section is closed and empty, and read only by workers that joined an open
// section; the release store that opens it and the acquire exchange that joins it order the two.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` points to a `Sync` closure, see above for its lifetime.
unsafe impl Send for Shared {}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as running tasks, so that a nested section runs inline; undone on drop, panic or not.
struct Inside(bool);

impl Inside {
    fn enter() -> Inside {
        Inside(INSIDE.replace(true))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// A fixed set of threads that run the tasks of one section at a time.
pub struct Pool {
    shared: Arc<Shared>,
    section: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    unpark: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the calling one included (so `threads - 1` are started).
    ///
    /// 0 means [`Pool::default_threads`]. Should the system refuse to start a thread, the pool is smaller;
    /// [`Pool::threads`] tells.
    pub fn new(threads: usize) -> Pool {
        let threads = if threads == 0 { Pool::default_threads() } else { threads };
        let wanted = threads.min(COUNT as usize) - 1;
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: Line(Cell::new(None)),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleeping: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("meden-{index}"));
            builder.spawn(move || worker(&shared, index)).ok()
        };
        let workers: Vec<JoinHandle<()>> = (0..wanted).map_while(start).collect();
        let unpark = workers.iter().map(|w| w.thread().clone()).collect();
        Pool { shared, section: Mutex::new(()), workers, unpark }
    }

    /// Threads that take part, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Physical cores this process may use: the affinity mask without second hyper-threads, bounded by the
    /// CPU quota of its control group. Two hyper-threads share one set of vector units, so counting both
    /// makes sections slower, not faster.
    pub fn default_threads() -> usize {
        let logical = thread::available_parallelism().map_or(1, usize::from);
        cores::physical().map_or(logical, |cores| cores.clamp(1, logical))
    }

    /// Calls `f(0) .. f(tasks - 1)`, each exactly once, on any thread in any order; returns when all are done.
    ///
    /// Called from inside a task it runs inline; called by several threads at once the sections queue up.
    /// If a task panics, the remaining tasks may be skipped and the panic goes on in the caller.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..tasks).for_each(f);
            return;
        }
        let _one_section = self.section.lock().unwrap_or_else(PoisonError::into_inner);
        self.open(tasks, f);
        let outcome = {
            let _inside = Inside::enter();
            catch_unwind(AssertUnwindSafe(|| drain(&self.shared.next.0, tasks, f)))
        };
        if outcome.is_err() {
            self.shared.next.0.store(tasks, Ordering::Relaxed);
        }
        self.close();
        let panicked = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = outcome.err().or(panicked) {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into chunks of `len` values (the last may be shorter) and calls `f(index, chunk)` for each.
    pub fn chunks<T: Send>(&self, out: &mut [T], len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let total = out.len();
        if total == 0 || len == 0 {
            return;
        }
        let start = SendPtr(out.as_mut_ptr());
        self.run(total.div_ceil(len), &|index| {
            let begin = index * len;
            let count = len.min(total - begin);
            // SAFETY: `begin + count <= total`, and each index is handed out once, so chunks never overlap;
            // `out` stays mutably borrowed until `run` returns, which is after the last task.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.get().add(begin), count) };
            f(index, chunk);
        });
    }

    fn open(&self, tasks: usize, f: &Task<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `close` returns after the last worker left, and `run` calls it
        // before it returns on every path, so nobody holds the pointer once `f` ends.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(f) };
        shared.job.0.set(Some(Job { task, tasks }));
        shared.next.0.store(0, Ordering::Relaxed);
        let state = shared.state.0.load(Ordering::Relaxed);
        // SeqCst here and in `sleep`: either the worker sees the new section or we see that it sleeps.
        shared.state.0.store((state & !COUNT & !OPEN) + NEXT + OPEN, Ordering::SeqCst);
        for (sleeping, thread) in shared.sleeping.iter().zip(&self.unpark) {
            if sleeping.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    fn close(&self) {
        let state = &self.shared.state.0;
        state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0;
        while state.load(Ordering::Acquire) & COUNT != 0 {
            rounds += 1;
            spin(rounds);
        }
        self.shared.job.0.set(None);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.unpark.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it has none of its own to report.
            let _ = worker.join();
        }
    }
}

/// A pointer that tasks may share because each of them touches its own part.
pub(crate) struct SendPtr<T>(pub(crate) *mut T);

impl<T> SendPtr<T> {
    /// The pointer. A method, so that closures capture the whole wrapper and not its bare field.
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: the wrapper only moves an address between threads; whoever dereferences it argues for disjointness.
unsafe impl<T: Send> Sync for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SendPtr<T> {}

fn drain(next: &AtomicUsize, tasks: usize, f: &Task<'_>) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= tasks {
            return;
        }
        f(index);
    }
}

fn worker(shared: &Shared, index: usize) {
    let _inside = Inside::enter();
    let mut seen = 0;
    loop {
        let Some(state) = await_section(shared, index, seen) else { return };
        seen = state & !COUNT & !OPEN;
        if join(shared, state) {
            work(shared);
            shared.state.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Spins, then parks, until a section other than number `seen` is open; `None` when the pool is dropped.
fn await_section(shared: &Shared, index: usize, seen: u64) -> Option<u64> {
    let mut rounds = 0;
    loop {
        let state = shared.state.0.load(Ordering::SeqCst);
        if state & OPEN != 0 && state & !COUNT & !OPEN != seen {
            shared.sleeping[index].store(false, Ordering::Relaxed);
            return Some(state);
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if rounds < SPIN {
            rounds += 1;
            spin(rounds);
        } else if shared.sleeping[index].swap(true, Ordering::SeqCst) {
            // Announced in the round before, and the state checked since: now it is safe to sleep.
            thread::park();
            shared.sleeping[index].store(false, Ordering::SeqCst);
            rounds = 0;
        }
    }
}

/// Round number `rounds` of a wait.
fn spin(rounds: u32) {
    if rounds.is_multiple_of(YIELD) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Joins the section that `state` shows, unless it closes first or another has begun.
fn join(shared: &Shared, mut state: u64) -> bool {
    let number = state & !COUNT;
    while state & !COUNT == number {
        match shared.state.0.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => state = now,
        }
    }
    false
}

fn work(shared: &Shared) {
    let Some(job) = shared.job.0.get() else { return };
    // SAFETY: this worker is counted in `state`, so the caller is still inside `run` and the closure alive.
    let task = unsafe { &*job.task };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drain(&shared.next.0, job.tasks, task))) {
        shared.next.0.store(job.tasks, Ordering::Relaxed);
        shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    ran[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn chunks_cover_the_slice_and_the_last_may_be_short() {
        let pool = Pool::new(2);
        let mut out = vec![0usize; 103];
        pool.chunks(&mut out, 10, |index, chunk| {
            assert_eq!(chunk.len(), if index == 10 { 3 } else { 10 });
            chunk.iter_mut().for_each(|v| *v += index + 1);
        });
        assert!(out.iter().enumerate().all(|(i, &v)| v == i / 10 + 1));
    }

    #[test]
    fn a_section_inside_a_task_runs_inline_instead_of_waiting_for_itself() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(5, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for guilty in [0, 1, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|i| assert!(i != guilty, "task {guilty}"));
            }));
            assert!(caught.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(64, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 64);
    }

    #[test]
    fn callers_on_several_threads_queue_up_and_sleepers_wake() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..200 {
                        if round % 50 == 0 {
                            thread::sleep(std::time::Duration::from_millis(2)); // long enough to park
                        }
                        pool.run(8, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 8);
    }
}
