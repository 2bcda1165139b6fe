//! Makes the run of a plan: collects what it says and counts, shows how it goes, and types.

use super::history::History;
use super::live::Live;
use super::plan::{Finished, Plan, Step};
use crate::cli::{Cli, Command, RunArgs};
use crate::run::Prepared;
use crate::session::{Input, Session};
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{PipeWriter, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Records of each guest in a second of the machine's time, where the plan does not say how many.
const RATE: &str = "--telemetry-rate";
const MANY: &str = "10";

/// What a run has said so far.
#[derive(Default)]
struct Said {
    console: Vec<u8>,
    log: String,
    /// Both, as they came.
    all: Vec<u8>,
    /// See [`Finished::marks`].
    marks: Vec<f64>,
}

/// Takes what guests say, and types what the plan wants.
struct Typist {
    said: Said,
    steps: VecDeque<Step>,
    /// Where the text begins that has come since the last keys.
    since: usize,
    /// Passes of merging that had ended when the front step's text was seen.
    seen: Option<u64>,
    keyboard: PipeWriter,
    history: Rc<RefCell<History>>,
}

impl Typist {
    fn hear(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.said.all.extend_from_slice(bytes);
        self.go_on()
    }

    /// Types what it is time for.
    fn go_on(&mut self) -> std::io::Result<()> {
        let passes = self.history.borrow().newest().map_or(0, |sample| sample.record.merge.passes);
        while let Some(step) = self.steps.front() {
            let appears = || String::from_utf8_lossy(&self.said.all[self.since..]).contains(&step.wait);
            if self.seen.is_none() && !appears() {
                break;
            }
            if passes < *self.seen.get_or_insert(passes) + step.passes {
                break;
            }
            self.seen = None;
            self.said.marks.push(self.history.borrow().end());
            if !step.keys.is_empty() {
                self.since = self.said.all.len();
                self.keyboard.write_all(step.keys.as_bytes())?;
            }
            self.steps.pop_front();
        }
        Ok(())
    }
}

/// The consoles.
struct Consoles(Rc<RefCell<Typist>>);

impl Write for Consoles {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut typist = self.0.borrow_mut();
        typist.said.console.extend_from_slice(bytes);
        typist.hear(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `run` would make of these words.
fn parse(words: &[String]) -> Result<RunArgs> {
    let rate = if words.iter().any(|word| word == RATE) { [].as_slice() } else { &[RATE, MANY] };
    let own = ["xtask", "run", "--headless"].iter().chain(rate).map(|&word| word.to_owned());
    let all = own.chain(words.iter().cloned());
    match Cli::try_parse_from(all)?.command {
        Command::Run(args) => Ok(*args),
        _ => bail!("{words:?} are no arguments of a run"),
    }
}

/// Makes the run.
///
/// # Errors
/// Something cannot be built, started or written.
pub(super) fn drive(label: &str, plan: &Plan) -> Result<Finished> {
    let args = parse(&plan.arguments)?;
    let prepared = Prepared::new(&args)?;
    let names = [prepared.guests(), &plan.clones].concat();
    let history = Rc::new(RefCell::new(History::new(names, prepared.tsc_hz())));
    let live = Rc::new(RefCell::new(Live::new(label, prepared.guests())));
    let (keys, keyboard) = std::io::pipe().context("a pipe for the keyboard")?;
    let typist = Rc::new(RefCell::new(Typist {
        said: Said::default(),
        steps: plan.steps.clone().into(),
        since: 0,
        seen: None,
        keyboard,
        history: Rc::clone(&history),
    }));
    let started = Instant::now();
    let (log_heard, log_live) = (Rc::clone(&typist), Rc::clone(&live));
    let (seen, shown) = (Rc::clone(&history), Rc::clone(&live));
    let waits = Rc::clone(&typist);
    let status = prepared.follow(Session {
        input: Input::Stream,
        source: Box::new(keys),
        output: Box::new(Consoles(Rc::clone(&typist))),
        log: Box::new(move |line| {
            log_live.borrow().say(line);
            let line = format!("{line}\n");
            let mut typist = log_heard.borrow_mut();
            typist.said.log.push_str(&line);
            // Whoever reads the keys has gone only when the run is over.
            let _ = typist.hear(line.as_bytes());
        }),
        console: None,
        telemetry: Box::new(move |record| {
            seen.borrow_mut().add(record);
            shown.borrow_mut().update(&seen.borrow());
            // As above.
            let _ = waits.borrow_mut().go_on();
            Ok(())
        }),
        timeout: Some(Duration::from_secs(plan.timeout)),
    })?;
    let said = std::mem::take(&mut typist.borrow_mut().said);
    drop(typist);
    let history = Rc::try_unwrap(history).map_err(|_| anyhow::anyhow!("the run is not over"))?;
    Ok(Finished {
        status,
        seconds: started.elapsed().as_secs_f64(),
        console: String::from_utf8_lossy(&said.console).into_owned(),
        log: said.log,
        marks: said.marks,
        history: history.into_inner(),
    })
}
