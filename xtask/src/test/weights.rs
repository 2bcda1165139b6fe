//! Two guests that each need more than half of the machine's memory all the time, one of them with the larger share: it keeps
//! what it needs, and the other one swaps.

use super::fixtures::Fixtures;
use crate::run::RunDir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights {
    pub(super) name: &'static str,
    /// Processors of the machine.
    cpus: &'static str,
}

/// All of them.
pub(super) const WEIGHTS: [Weights; 2] =
    [Weights { name: "memory-by-weight", cpus: "1" }, Weights { name: "memory-by-weight-2-cpus", cpus: "2" }];

/// 7,000 pages that each guest reads again and again are 27 MiB; Herald leaves 51 of the machine's 64. The heavy one is the
/// second: it has no memory yet when the first one begins.
const GUESTS: &str = r#"
[[vm]]
name = "light"
kernel = KERNEL
append = "sweep rounds=2 every=24 busy=7000"
memory = "32M"

[[vm]]
name = "heavy"
kernel = KERNEL
append = "sweep rounds=2 every=24 busy=7000"
memory = "32M"
memory_weight = 400
"#;
/// Pages that the light one loses at least, of some 5,000 seen.
const LEAST: u64 = 2000;
/// So many times as many as the heavy one.
const TIMES: u64 = 4;

impl Weights {
    /// Runs the guests, and compares what they have lost.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self, fixtures: &Fixtures) -> Result<()> {
        let dir = RunDir::create()?;
        let (config, telemetry) = (dir.path().join("guests.toml"), dir.path().join("telemetry"));
        let kernel = fixtures.expand("{testguest}");
        std::fs::write(&config, GUESTS.replace("KERNEL", &format!("{kernel:?}")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--headless", "--timeout", "400", "--host-memory", "64M", "--swap", "ram:64M"]);
        command.args(["--host-cpus", self.cpus]).arg("--config").arg(&config);
        command.arg("--telemetry").arg(&telemetry);
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for name in ["light", "heavy"] {
            ensure!(text.contains(&format!("[{name}] sweep: ok")), "{name} is not content:\n{text}");
        }
        let (light, heavy) = (swapped_out(&telemetry, 0)?, swapped_out(&telemetry, 1)?);
        ensure!(light >= LEAST.max(TIMES * heavy), "pages lost: {light} by weight 100, {heavy} by 400");
        Ok(())
    }
}

/// Pages that a guest has lost in its life.
fn swapped_out(telemetry: &Path, guest: u64) -> Result<u64> {
    let text = std::fs::read_to_string(telemetry).context("telemetry")?;
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut own = records.filter(|record| record.pointer("/vm").and_then(Value::as_u64) == Some(guest));
    let last = own.next_back().and_then(|record| record.pointer("/swap/out")?.as_u64());
    last.with_context(|| format!("no record of guest {guest}"))
}
