//! Passing a caller's companions (progress, a way to stop, hooks) on to the calls below.

use meden_engine::Control;

/// The same companions for a shorter time, so that a hook or another progress report can be put beside them.
pub(crate) fn reborrow<'s>(control: &'s mut Control<'_>) -> Control<'s> {
    let mut inner = Control { cancel: control.cancel, ..Control::default() };
    if let Some(progress) = control.progress.as_mut() {
        inner.progress = Some(&mut **progress);
    }
    for hook in &mut control.hooks {
        inner.hooks.push(&mut **hook);
    }
    inner
}

/// Runs one of several parts of a work of `total` tokens: inside it, progress counts from `done` on.
pub(crate) fn part<T>(
    control: &mut Control<'_>,
    (done, total): (usize, usize),
    run: impl FnOnce(&mut Control<'_>) -> T,
) -> T {
    let mut outer = control.progress.take();
    let result = {
        let mut progress = |now: usize, _: usize| {
            if let Some(outer) = outer.as_mut() {
                outer(done + now, total);
            }
        };
        let mut inner = reborrow(control);
        inner.progress = Some(&mut progress);
        run(&mut inner)
    };
    control.progress = outer;
    result
}
