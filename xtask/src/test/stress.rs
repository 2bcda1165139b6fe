//! The stress programs in their short forms, with their verdicts and their pages.

use super::fixtures::Fixtures;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Command, Stdio};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stress {
    pub(super) name: &'static str,
    /// Behind `stress`.
    args: &'static [&'static str],
}

/// All of them, the longest first.
pub(super) const STRESS: [Stress; 8] = [
    Stress { name: "stress-overcommit", args: &["overcommit", "--quick"] },
    Stress { name: "stress-swapstorm", args: &["swapstorm", "--quick"] },
    Stress { name: "stress-idle", args: &["idle", "--quick"] },
    Stress { name: "stress-merge", args: &["merge", "--quick"] },
    Stress { name: "stress-clone", args: &["clone", "--quick"] },
    Stress { name: "stress-clone-penryn", args: &["clone", "--quick", "--cpu", "penryn"] },
    Stress { name: "stress-limits", args: &["limits", "--quick"] },
    Stress { name: "stress-faulty-disk", args: &["faulty-disk", "--quick"] },
];

impl Stress {
    /// Runs it, and looks at what it leaves.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self, fixtures: &Fixtures) -> Result<()> {
        let json = fixtures.dir().join(format!("{}.json", self.name));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("stress").args(self.args).arg("--json").arg(&json);
        let output = command.stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(output.status.success(), "{}{}", said[0], said[1]);
        let text = std::fs::read_to_string(&json).with_context(|| json.display().to_string())?;
        let document: Value = serde_json::from_str(&text)?;
        ensure!(document.pointer("/passed") == Some(&Value::Bool(true)), "no good verdict in {text}");
        let charts = document.pointer("/runs/0/charts").and_then(Value::as_array).map_or(0, Vec::len);
        let page = std::fs::read_to_string(json.with_extension("html"))?;
        ensure!(charts > 3 && page.matches("<svg").count() >= charts, "{charts} charts in {text}");
        Ok(())
    }
}
