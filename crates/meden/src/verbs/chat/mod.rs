//! `meden chat`: talk with a model. With a terminal there is line editing and a history; without one, each line of
//! standard input is a message, so that a conversation can be piped in.

mod command;
mod conversation;
mod input;

use std::path::{Path, PathBuf};

use meden_report::human;
use serde::Serialize;
use serde_json::json;

use crate::args::{CacheArgs, ModelArgs, SamplingArgs, SteerArgs};
use crate::cli::Global;
use crate::exit::{Exit, one_line, usage};
use crate::generate::{Answer, Finish};
use crate::progress::{Bar, say};
use crate::shown::Shown;
use crate::summary::{self, Memory};
use crate::{load, output, signals};
use command::Command;
use conversation::Conversation;
use input::{Input, Line};

/// Talk with a model. Type /help inside for its commands.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    load: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    steer: SteerArgs,
}

/// The one object of `meden chat --json`, printed when the input has ended.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    messages: &'a [meden_engine::text::Message],
    cache: meden_engine::CacheStats,
    memory: Memory,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.sampling.logprobs > 0 {
        return Err(usage("--logprobs: a chat has no place for them; use meden run --json"));
    }
    let mut options = args.cache.session_options()?;
    let steer = args.steer.read(&options)?;
    let opened = load::open(&args.model, global.quiet)?;
    crate::repeat::instruct(crate::repeat::press_of(&mut options.policy), opened.tokenizer.as_ref(), global.quiet)?;
    if opened.template.is_none() {
        return Err(usage(format!(
            "{}: this model has no chat template, so it cannot hold a conversation; use meden run to continue a text",
            opened.name()
        )));
    }
    let loaded = opened.load(&options, opened.config.context)?;
    let mut chat = Conversation::new(&opened, loaded.model.clone(), options, args.system.clone())?.steered(steer)?;
    if let Some(file) = &args.load {
        chat.load(file)?;
    }
    let mut input = Input::new(global.quiet);
    if input.is_terminal() && !global.quiet {
        say(&format!("{}. /help lists commands, Ctrl-D ends.", opened.name()));
    }
    let mut interrupted = false;
    loop {
        signals::reset();
        let line = match input.next()? {
            Line::Text(line) => line,
            Line::Nothing => continue,
            Line::End => break,
        };
        let done = match Command::parse(&line) {
            None => speak(&mut chat, &line, &args.sampling, global),
            Some(Ok(Command::Quit)) => break,
            Some(Ok(command)) => obey(&mut chat, &command, global),
            Some(Err(wrong)) => Err(usage(wrong)),
        };
        match done {
            Ok(finish) => interrupted = finish == Some(Finish::Interrupted),
            // At a terminal a mistake costs a line, not the conversation; a script wants to know.
            Err(error) if input.is_terminal() && !crate::exit::is_broken_pipe(&error) => {
                say(&format!("meden: {}", one_line(&error)));
            }
            Err(error) => return Err(error),
        }
        if interrupted && !input.is_terminal() {
            break;
        }
    }
    if global.json {
        let memory = Memory::now(loaded.model.weight_bytes());
        let report = Report { model: opened.name(), messages: chat.messages(), cache: chat.stats(), memory };
        output::object(&report)?;
    }
    Ok(if interrupted && !input.is_terminal() { Exit::Interrupted } else { Exit::Ok })
}

fn speak(
    chat: &mut Conversation<'_>,
    line: &str,
    sampling: &SamplingArgs,
    global: Global,
) -> anyhow::Result<Option<Finish>> {
    let mut shown = Shown::new(global);
    let answer = chat.turn(line, sampling, &mut shown)?;
    drop(shown);
    if !global.json {
        output::text("\n")?;
    }
    if !global.quiet {
        say(&after_turn(&answer, chat.stats().kv_bytes));
    }
    Ok(Some(answer.finish))
}

/// One short line under an answer.
fn after_turn(answer: &Answer, kv_bytes: u64) -> String {
    let ended = match answer.finish {
        Finish::EndOfText | Finish::StopString => "",
        Finish::MaxTokens => ", cut at --max-tokens",
        Finish::ContextFull => ", the context is full: /reset starts again",
        Finish::Interrupted => ", interrupted",
    };
    let rate = human::rate(answer.decoded as u64, answer.decode);
    format!("[{} tokens, {rate}/s, cache {}{ended}]", answer.ids.len(), human::bytes(kv_bytes))
}

fn obey(chat: &mut Conversation<'_>, command: &Command, global: Global) -> anyhow::Result<Option<Finish>> {
    match command {
        Command::Help => tell(global, command::HELP)?,
        Command::Stats => {
            let memory = Memory::now(chat.model().weight_bytes());
            let stats = chat.stats();
            let mut text = format!("{} messages\n", chat.messages().len());
            for line in summary::cache_lines(&stats, &memory) {
                text += &format!("{line}\n");
            }
            tell(global, &text)?;
        }
        Command::Save(path) => {
            chat.save(Path::new(path))?;
            tell(global, &format!("saved to {path}\n"))?;
        }
        Command::Load(path) => {
            chat.load(Path::new(path))?;
            tell(global, &format!("{} messages loaded from {path}\n", chat.messages().len()))?;
        }
        Command::Press(None) => {
            let text = match chat.policy() {
                Some(policy) => serde_json::to_string(policy)?,
                None => "no press: the cache keeps everything".to_owned(),
            };
            tell(global, &format!("{text}\n"))?;
        }
        Command::Press(Some(change)) => {
            let mut bar = Bar::new(global.quiet);
            chat.set_policy(change.policy(), &mut |done, total| bar.tokens("reading again", done, total))?;
            bar.clear();
            let edits = if chat.is_steered() { ", without the edits of earlier turns" } else { "" };
            let line =
                format!("the conversation was read again{edits}; cache {}\n", human::bytes(chat.stats().kv_bytes));
            tell(global, &line)?;
        }
        Command::Reset => {
            chat.reset()?;
            tell(global, "a new conversation\n")?;
        }
        Command::Quit => {}
    }
    Ok(None)
}

/// What a command answers: text on standard output, or nothing when that is kept for the one JSON object.
fn tell(global: Global, text: &str) -> anyhow::Result<()> {
    if global.json {
        say(&json!(text.trim_end()).to_string());
    } else {
        output::text(text)?;
    }
    Ok(())
}
