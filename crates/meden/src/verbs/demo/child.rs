//! The process that measures one side, and the pipe its events come through.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::side::{Event, SideReport, SideSpec};
use crate::exit::{Exit, failure};
use crate::signals;

/// How often Ctrl-C is looked for while the other process works.
const LOOK: Duration = Duration::from_millis(50);

/// A process that is not left behind, whatever happens here.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // An ended process cannot be killed, which is fine; it still has to be waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs one side in a process of its own and returns what it measured.
pub fn run(spec: &SideSpec, reading: &mut dyn FnMut(usize, usize)) -> anyhow::Result<SideReport> {
    let program = std::env::current_exe().context("the demo cannot find its own program file")?;
    let child = Command::new(program)
        .args(["demo", "--json", "--quiet", "--side", &serde_json::to_string(spec)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the demo cannot start its second process")?;
    let mut child = Held(child);
    let pipe = child.0.stdout.take().context("the demo's second process has no output")?;
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut result = None;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => match serde_json::from_str::<Event>(&line) {
                Ok(Event::Reading { done, total }) => reading(done, total),
                Ok(Event::Done(report)) => result = Some(*report),
                Err(_) => return Err(refused(&line)),
            },
            Err(RecvTimeoutError::Timeout) if signals::interrupted() => return Err(interrupted()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The channel is closed, so the thread has ended or is about to.
    let _ = reader.join();
    let status = child.0.wait().context("the demo's second process is lost")?;
    if signals::interrupted() || status.code() == Some(Exit::Interrupted as i32) {
        return Err(interrupted());
    }
    result.ok_or_else(|| {
        failure(Exit::Other, format!("demo: its second process ended without a result ({status}); run it again"))
    })
}

fn interrupted() -> anyhow::Error {
    failure(Exit::Interrupted, "demo: interrupted; nothing was written")
}

/// The error that the other process told in JSON, with its code.
fn refused(line: &str) -> anyhow::Error {
    let told: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    let error = &told["error"];
    let message = error["message"].as_str().unwrap_or("its second process wrote something that is no event");
    let exits = [Exit::Usage, Exit::BadFile, Exit::ModelUnavailable, Exit::Memory, Exit::Context, Exit::Interrupted];
    let code = error["exit_code"].as_u64();
    let exit = exits.into_iter().find(|e| Some(*e as u64) == code).unwrap_or(Exit::Other);
    failure(exit, message)
}
