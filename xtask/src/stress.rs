//! `stress`: programs that take long. Each is a run of the test guest that ends well or has found something.

use crate::cli::{Stress, StressArgs};
use crate::run::RunDir;
use crate::{elf32, metal};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Storm operations beside guests that are killed: never all done.
const ENDLESS: &str = "1000000000";
/// Operations that content a guest that is not killed.
const FEW: u64 = 300;

impl Stress {
    /// Operations, or kills of each guest, if the command line does not say.
    const fn default_count(self) -> u64 {
        match self {
            Self::Storm => 1_000_000,
            Self::Kills => 200,
        }
    }

    /// Seconds after which a machine hangs: five times what Bochs took for as much on one slow CPU, and five minutes.
    const fn timeout(self, count: u64) -> u64 {
        300 + match self {
            Self::Storm => count / 100,
            Self::Kills => count.saturating_mul(5),
        }
    }

    fn arguments(self, count: u64) -> Vec<String> {
        let text = match self {
            Self::Storm => format!("--oracle --storm {ENDLESS} --append"),
            Self::Kills => format!("--vms 2 --log debug --kills {count} --storm {ENDLESS} --append"),
        };
        let operations = if self == Self::Storm { count } else { FEW };
        text.split(' ').map(str::to_owned).chain([format!("storm operations={operations}")]).collect()
    }
}

/// Runs a program; its exit status is the run's.
///
/// # Errors
/// Something cannot be built, started or written.
pub(crate) fn run(args: &StressArgs) -> Result<u8> {
    let binaries = metal::build()?;
    let dir = RunDir::create()?;
    let kernel = dir.path().join("testguest");
    let elf = std::fs::read(&binaries.testguest).context("the test guest")?;
    std::fs::write(&kernel, elf32::from_elf64(&elf, 0)?)?;
    let count = args.count.unwrap_or_else(|| args.name.default_count());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--headless", "--memory", "16M", "--kernel"]).arg(&kernel);
    command.args(["--vcpus", &args.vcpus.to_string(), "--host-cpus", &args.host_cpus.to_string()]);
    command.args(["--timeout", &args.name.timeout(count).to_string()]);
    command.args(args.name.arguments(count)).stdin(Stdio::null());
    let started = Instant::now();
    let status = command.status().context("cannot start the machine")?;
    let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let seconds = started.elapsed().as_secs();
    println!("{}: {count}, {seconds} s, {}", args.name, if status == 0 { "ok" } else { "FAILED" });
    if let Some(path) = &args.json {
        let verdict = serde_json::json!({
            "name": args.name.to_string(), "count": count, "seconds": seconds, "vcpus": args.vcpus,
            "host_cpus": args.host_cpus, "passed": status == 0,
        });
        std::fs::write(path, format!("{verdict:#}\n"))
            .with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(status)
}
