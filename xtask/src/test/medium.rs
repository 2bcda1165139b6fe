//! A medium that `image` writes, and a machine that its firmware starts from it. Nobody but the serial line talks to Herald.

use super::dialogue::{Screen, type_keys};
use crate::{bochs, machine::Running, run::RunDir};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    pub(super) name: &'static str,
    /// Behind `image --format`.
    pub(super) format: &'static str,
    /// On the serial line: texts to wait for, and keys to type then.
    pub(super) steps: &'static [(&'static str, &'static str)],
    /// What must have appeared when the machine is off.
    pub(super) last: &'static str,
    /// Wall seconds.
    pub(super) timeout: u64,
}

/// All of them.
pub(super) const MEDIA: [Medium; 1] = [Medium {
    name: "iso-bios",
    format: "iso",
    steps: &[("herald:/#", "uname -a\r"), ("-herald", "poweroff -f\r")],
    last: "herald: the guest powered off",
    timeout: 300,
}];

const MEMORY: u64 = 512 << 20;

impl Medium {
    /// Writes the image, starts a machine from it, and follows the steps.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self) -> Result<()> {
        let dir = RunDir::create()?;
        let image = dir.path().join(self.format);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["image", "--format", self.format, "-o"]).arg(&image);
        let output = command.output()?;
        ensure!(output.status.success(), "no image: {}", String::from_utf8_lossy(&output.stderr));
        let mut machine = self.start(&image, dir.path())?;
        let mut line = machine.serial_line()?;
        let screen = Screen::watch(line.try_clone()?);
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        type_keys(&mut line, &screen, self.steps, deadline)?;
        wait(&mut machine, deadline).with_context(|| screen.text())?;
        ensure!(screen.text().contains(self.last), "no `{}` in\n{}", self.last, screen.text());
        Ok(())
    }

    fn start(&self, image: &Path, dir: &Path) -> Result<Running> {
        let medium = bochs::Medium { image, is_cd: self.format == "iso", memory: MEMORY, ips: bochs::IPS };
        bochs::start_medium(&medium, dir)
    }
}

fn wait(machine: &mut Running, deadline: Instant) -> Result<()> {
    while machine.child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            bail!("the machine is still on");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
