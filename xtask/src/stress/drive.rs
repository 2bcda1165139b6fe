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

/// Records of each guest in a second of the machine's time.
const RATE: &str = "10";

/// What a run has said so far.
#[derive(Default)]
struct Said {
    console: Vec<u8>,
    log: String,
    /// See [`Finished::marks`].
    marks: Vec<f64>,
}

/// Takes what guests say, and types what the plan wants.
struct Typist {
    said: Rc<RefCell<Said>>,
    steps: VecDeque<Step>,
    /// Where the text begins that has come since the last keys.
    since: usize,
    keyboard: PipeWriter,
    history: Rc<RefCell<History>>,
}

impl Typist {
    fn type_what_is_due(&mut self) -> std::io::Result<()> {
        while let Some(step) = self.steps.front() {
            let mut said = self.said.borrow_mut();
            let new = String::from_utf8_lossy(&said.console[self.since..]).into_owned();
            if !new.contains(&step.wait) {
                break;
            }
            said.marks.push(self.history.borrow().end());
            if !step.keys.is_empty() {
                self.since = said.console.len();
                self.keyboard.write_all(step.keys.as_bytes())?;
            }
            self.steps.pop_front();
        }
        Ok(())
    }
}

impl Write for Typist {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.said.borrow_mut().console.extend_from_slice(bytes);
        self.type_what_is_due()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `run` would make of these words.
fn parse(words: &[String]) -> Result<RunArgs> {
    let rate = ["--headless", "--telemetry-rate", RATE].map(str::to_owned);
    let all = ["xtask", "run"].into_iter().map(str::to_owned).chain(words.iter().cloned()).chain(rate);
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
    let history = Rc::new(RefCell::new(History::new(prepared.guests().to_vec(), prepared.tsc_hz())));
    let live = Rc::new(RefCell::new(Live::new(label, prepared.guests())));
    let said = Rc::new(RefCell::new(Said::default()));
    let (keys, keyboard) = std::io::pipe().context("a pipe for the keyboard")?;
    let typist = Typist {
        said: Rc::clone(&said),
        steps: plan.steps.clone().into(),
        since: 0,
        keyboard,
        history: Rc::clone(&history),
    };
    let started = Instant::now();
    let (log_said, log_live) = (Rc::clone(&said), Rc::clone(&live));
    let (seen, shown) = (Rc::clone(&history), Rc::clone(&live));
    let status = prepared.follow(Session {
        input: Input::Stream,
        source: Box::new(keys),
        output: Box::new(typist),
        log: Box::new(move |line| {
            log_live.borrow().say(line);
            log_said.borrow_mut().log.push_str(&format!("{line}\n"));
        }),
        console: None,
        telemetry: Box::new(move |record| {
            seen.borrow_mut().add(record);
            shown.borrow_mut().update(&seen.borrow());
            Ok(())
        }),
        timeout: Some(Duration::from_secs(plan.timeout)),
    })?;
    let said = said.take();
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
