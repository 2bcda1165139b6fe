//! Random sequences, as many as one wants, on all processors: what `cargo test` takes of them is a small share.
//! `cargo xtask test random` builds and starts it.
#![forbid(unsafe_code)]

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::sequence::{Failure, run_seed};

/// Between two lines where there is no terminal.
const REPORT: Duration = Duration::from_secs(30);

/// Takes random steps with the memory manager on the simulated machine; the oracle looks after each.
#[derive(Parser)]
struct Arguments {
    /// Steps to take in all
    #[arg(long)]
    steps: u64,
    /// Seed of the first case; the next case has the next number
    #[arg(long)]
    seed: u64,
    /// Cases at a time
    #[arg(long, default_value_t = processors())]
    jobs: usize,
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// What the threads share.
struct Search {
    next: AtomicU64,
    taken: AtomicU64,
    wanted: u64,
    ended: AtomicBool,
    failure: Mutex<Option<Box<Failure>>>,
    bar: ProgressBar,
    started: Instant,
    reported: Mutex<Instant>,
}

impl Search {
    fn new(arguments: &Arguments) -> Self {
        let style =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} steps [{elapsed} < {eta}]");
        let bar = ProgressBar::new(arguments.steps)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            next: AtomicU64::new(arguments.seed),
            taken: AtomicU64::new(0),
            wanted: arguments.steps,
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
            bar,
            started: Instant::now(),
            reported: Mutex::new(Instant::now()),
        }
    }

    /// Takes one case after the other until there are steps enough, or one fails.
    fn work(&self) {
        while !self.ended.load(Ordering::Relaxed) && self.taken.load(Ordering::Relaxed) < self.wanted {
            match run_seed(self.next.fetch_add(1, Ordering::Relaxed)) {
                Ok(steps) => {
                    self.report(self.taken.fetch_add(steps as u64, Ordering::Relaxed) + steps as u64)
                }
                Err(failure) => {
                    self.ended.store(true, Ordering::Relaxed);
                    self.failure.lock().expect("no thread panics").get_or_insert(failure);
                }
            }
        }
    }

    fn report(&self, taken: u64) {
        self.bar.set_position(taken.min(self.wanted));
        let mut reported = self.reported.lock().expect("no thread panics");
        if !std::io::stderr().is_terminal() && reported.elapsed() >= REPORT {
            *reported = Instant::now();
            eprintln!("{taken} of {} steps, {} s", self.wanted, self.started.elapsed().as_secs());
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The product's panics are failures like others, and told as such.
    std::panic::set_hook(Box::new(|_| {}));
    let search = Search::new(&arguments);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| search.work());
        }
    });
    search.bar.finish_and_clear();
    let (taken, seconds) = (search.taken.into_inner(), search.started.elapsed().as_secs_f64());
    let cases = search.next.into_inner() - arguments.seed;
    match search.failure.into_inner().expect("no thread panics") {
        Some(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
        None => {
            println!(
                "{taken} steps in {cases} cases from seed {}: no violation, {seconds:.0} s",
                arguments.seed
            );
            ExitCode::SUCCESS
        }
    }
}
