//! Two guests that never wait, on one processor: their loops tell their shares.

use super::fixtures::Fixtures;
use crate::run::RunDir;
use anyhow::{Result, bail, ensure};
use std::fmt::Write;
use std::process::{Command, Stdio};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fairness {
    pub(super) name: &'static str,
    /// Of the two guests.
    weights: [u32; 2],
}

/// All of them.
pub(super) const FAIRNESS: [Fairness; 2] = [
    Fairness { name: "fair-shares", weights: [100, 100] },
    Fairness { name: "fair-shares-by-weight", weights: [100, 300] },
];

/// TSC ticks of a guest's life.
const TICKS: u64 = 100_000_000;
/// What a share may be away from what is due, as a part of it.
const TOLERANCE: f64 = 0.05;

impl Fairness {
    /// Runs the guests, and compares their shares with their weights.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self, fixtures: &Fixtures) -> Result<()> {
        let dir = RunDir::create()?;
        let config = dir.path().join("guests.toml");
        std::fs::write(&config, self.config(fixtures))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--headless", "--timeout", "200", "--config"]).arg(&config);
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let loops = [0, 1].map(|guest| loops_of(&text, guest));
        let [Some(first), Some(second)] = loops else { bail!("no loops in\n{text}") };
        let due = self.weights.map(|weight| f64::from(weight) / f64::from(self.weights.iter().sum::<u32>()));
        let shares = [first, second].map(|loops| loops / (first + second));
        for (share, due) in shares.into_iter().zip(due) {
            ensure!((share - due).abs() <= TOLERANCE * due, "shares are {shares:?}, due are {due:?}");
        }
        Ok(())
    }

    fn config(&self, fixtures: &Fixtures) -> String {
        let kernel = fixtures.expand("{testguest}");
        self.weights.iter().enumerate().fold(String::new(), |mut text, (guest, weight)| {
            let _ = write!(
                text,
                "[[vm]]\nname = \"spin{guest}\"\nkernel = {kernel:?}\nmemory = \"16M\"\nweight = {weight}\n\
                 append = \"spin ticks={TICKS}\"\n"
            );
            text
        })
    }
}

/// What a guest has counted.
fn loops_of(text: &str, guest: usize) -> Option<f64> {
    let (_, rest) = text.split_once(&format!("[spin{guest}] spin: "))?;
    rest.split_once(" loops")?.0.parse().ok()
}
