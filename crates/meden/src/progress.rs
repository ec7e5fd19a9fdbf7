//! Progress for people who watch: on standard error, and only when that is a terminal.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use meden_files::source::Progress;
use meden_report::human;

const BYTES: &str = "{msg}  {bar:28} {bytes:>10} of {total_bytes}  {bytes_per_sec:>12}  {eta:>4}";
const TOKENS: &str = "{msg}  {bar:28} {pos:>7} of {len} tokens  {rate:>7}  {eta:>4}";
const RUNS: &str = "{msg}  {bar:28} {pos} of {len} runs  {eta:>4}";
const STEPS: &str = "{msg}  {bar:28} {pos:>6} of {len} measurements  {rate1:>8}  {eta:>4}";
const IMAGES: &str = "{msg}  {bar:28} {pos:>7} of {len} images  {rate1:>8}  {eta:>4}";
const TRAIN: &str = "{msg}  {bar:28} {pos:>6} of {len} steps  {rate1:>8}  {eta:>4}";
const LOAD: &str = "{msg}  {bar:28} {bytes:>10} of {total_bytes}  {average:>12}  {left:>4}";
const SPIN: &str = "{spinner} {msg}  {bytes}";

/// A bar that appears when something starts and disappears when it is done.
pub struct Bar {
    bar: Option<ProgressBar>,
    visible: bool,
}

impl Bar {
    /// A bar that shows nothing unless standard error is a terminal and `quiet` is off.
    pub fn new(quiet: bool) -> Bar {
        Bar { bar: None, visible: !quiet && std::io::stderr().is_terminal() }
    }

    /// Shows how far a count of tokens is.
    pub fn tokens(&mut self, what: &str, done: usize, total: usize) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total as u64), TOKENS));
        bar.set_message(what.to_owned());
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    /// Shows how far a count of runs is.
    pub fn runs(&mut self, what: &str, done: usize, total: usize) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total as u64), RUNS));
        bar.set_message(what.to_owned());
        bar.set_position(done as u64);
    }

    /// Shows how far a count of measurements is.
    pub fn steps(&mut self, what: &str, done: usize, total: usize) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total as u64), STEPS));
        bar.set_message(what.to_owned());
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    /// Shows how far a count of images is.
    pub fn images(&mut self, what: &str, done: usize, total: usize) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total as u64), IMAGES));
        bar.set_message(what.to_owned());
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    /// Shows how far a training run is.
    pub fn training(&mut self, what: &str, done: u64, total: u64) {
        if !self.visible {
            return;
        }
        // A resumed run starts somewhere: its rate counts from there.
        let bar = self.bar.get_or_insert_with(|| {
            let bar = new_bar(Some(total), TRAIN);
            bar.reset_eta();
            bar
        });
        bar.set_message(what.to_owned());
        bar.set_position(done);
    }

    /// Shows how many bytes of how many are done.
    pub fn bytes(&mut self, what: &str, done: u64, total: u64) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total), BYTES));
        bar.set_message(what.to_owned());
        bar.set_position(done);
    }

    /// Shows how many bytes of how many were loaded in a time that began before the bar was shown. Threads load side by
    /// side and tell it in any order, so the bar never goes back.
    pub fn loading(&mut self, what: &str, (done, total): (u64, u64), taken: Duration) {
        if !self.visible {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(Some(total), LOAD).with_elapsed(taken));
        bar.set_message(what.to_owned());
        bar.set_position(done.max(bar.position()));
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn new_bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    // The templates are the constants above; one that did not parse would leave the default style.
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.0}/s", state.pos() as f64 / state.elapsed().as_secs_f64().max(1e-3));
        };
        let slow = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.1}/s", state.pos() as f64 / state.elapsed().as_secs_f64().max(1e-3));
        };
        // Over the whole time: tensors come in pieces of very different sizes.
        let speed = |state: &ProgressState| state.pos() as f64 / state.elapsed().as_secs_f64().max(1e-3);
        let average = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}/s", human::bytes(speed(state) as u64));
        };
        let left = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let bytes = state.len().unwrap_or(0).saturating_sub(state.pos()) as f64;
            let _ = write!(out, "{:.0}s", (bytes / speed(state).max(1.0)).ceil());
        };
        let style =
            style.with_key("rate", rate).with_key("rate1", slow).with_key("average", average).with_key("left", left);
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}

impl Progress for Bar {
    fn start(&mut self, what: &str, total: Option<u64>) {
        if !self.visible {
            return;
        }
        self.clear();
        let bar = new_bar(total, if total.is_some() { BYTES } else { SPIN });
        bar.set_message(what.to_owned());
        if total.is_none() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        self.clear();
    }

    /// Notes are for the user, watching or not.
    fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

/// A line on standard error. Where that is closed nobody is told, which is no reason to fail.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
