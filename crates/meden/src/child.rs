//! Work in a process of its own, so that the memory measured is that work's alone, and the pipe its lines come through.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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

/// Runs `meden VERB --json --quiet FLAG SPEC` and hands each event it prints to `see`.
///
/// # Errors
/// What the other process says is its error, with its exit code; an interrupt; a process that ends before its work.
pub fn run<E: DeserializeOwned>(
    (verb, flag): (&str, &str),
    spec: &impl Serialize,
    see: &mut dyn FnMut(E),
) -> anyhow::Result<()> {
    let program = std::env::current_exe().with_context(|| format!("{verb} cannot find its own program file"))?;
    let child = Command::new(program)
        .args([verb, "--json", "--quiet", flag, &serde_json::to_string(spec)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{verb} cannot start its second process"))?;
    let mut child = Held(child);
    let pipe = child.0.stdout.take().with_context(|| format!("{verb}: the second process has no output"))?;
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => match serde_json::from_str::<E>(&line) {
                Ok(event) => see(event),
                Err(_) => return Err(refused(&line)),
            },
            Err(RecvTimeoutError::Timeout) if signals::interrupted() => return Err(interrupted(verb)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The channel is closed, so the thread has ended or is about to.
    let _ = reader.join();
    let status = child.0.wait().with_context(|| format!("{verb}: the second process is lost"))?;
    if signals::interrupted() || status.code() == Some(Exit::Interrupted as i32) {
        return Err(interrupted(verb));
    }
    if status.success() {
        return Ok(());
    }
    Err(failure(Exit::Other, format!("{verb}: its second process ended without a result ({status}); run it again")))
}

fn interrupted(verb: &str) -> anyhow::Error {
    failure(Exit::Interrupted, format!("{verb}: interrupted; nothing was written"))
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
