//! A medium that `image` writes, and a machine that its firmware starts from it. Nobody but the serial line talks to Herald.

use super::dialogue::{Screen, type_keys};
use crate::bochs::{self, Emulation};
use crate::machine::{self, Running};
use crate::qemu::{self, Firmware};
use crate::run::RunDir;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What starts it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Machine {
    /// With its BIOS, and VMX.
    Bochs,
    /// Without VMX: Herald comes up and says so.
    Qemu(Firmware),
    /// On KVM, with VMX.
    Nested(Firmware),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    pub(super) name: &'static str,
    /// Behind `image --format`.
    pub(super) format: &'static str,
    pub(super) machine: Machine,
    /// On the serial line: texts to wait for, and keys to type then.
    pub(super) steps: &'static [(&'static str, &'static str)],
    /// What must have appeared when the machine is off.
    pub(super) last: &'static str,
    /// Wall seconds.
    pub(super) timeout: u64,
}

/// To the guest's shell.
const SHELL: Medium = Medium {
    name: "",
    format: "",
    machine: Machine::Bochs,
    steps: &[("herald:/#", "uname -a\r"), ("-herald", "poweroff -f\r")],
    last: "herald: the guest powered off",
    timeout: 300,
};

/// As far as a machine without VMX goes.
const FIRST_WORDS: Medium = Medium { steps: &[], last: "this processor has no VMX", ..SHELL };

/// All of them.
pub(super) const MEDIA: [Medium; 7] = [
    Medium { name: "iso-bios", format: "iso", ..SHELL },
    Medium { name: "iso-bios-q35", format: "iso", machine: Machine::Qemu(Firmware::Bios), ..FIRST_WORDS },
    Medium { name: "raw-bios", format: "raw", ..SHELL },
    Medium { name: "raw-bios-q35", format: "raw", machine: Machine::Qemu(Firmware::Bios), ..FIRST_WORDS },
    Medium { name: "raw-uefi", format: "raw", machine: Machine::Qemu(Firmware::Uefi), ..FIRST_WORDS },
    Medium { name: "uefi", format: "uefi", machine: Machine::Qemu(Firmware::Uefi), ..FIRST_WORDS },
    Medium { name: "iso-uefi", format: "iso", machine: Machine::Qemu(Firmware::Uefi), ..FIRST_WORDS },
];

/// Those for a machine whose KVM gives VMX to its guests.
pub(super) const NESTED_MEDIA: [Medium; 1] =
    [Medium { name: "uefi-nested", format: "uefi", machine: Machine::Nested(Firmware::Uefi), ..SHELL }];

const MEMORY: u64 = 512 << 20;

impl Medium {
    /// Writes the image, starts a machine from it, and follows the steps. Emulator, firmware and tools are here.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self) -> Result<()> {
        let dir = RunDir::create()?;
        let image = match workspace::prebuilt() {
            Some(prebuilt) => prebuilt.join(self.format),
            None => write_image(self.format, dir.path())?,
        };
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
        let medium = machine::Medium { image, is_cd: self.format == "iso", memory: MEMORY };
        match self.machine {
            Machine::Bochs => bochs::start_medium(&medium, Emulation::default(), dir),
            Machine::Qemu(firmware) => qemu::start_medium(&qemu::EMULATED, &medium, firmware, dir),
            Machine::Nested(firmware) => qemu::start_medium(&qemu::NESTED, &medium, firmware, dir),
        }
    }
}

/// Writes an image as a user does; its path in `dir`.
///
/// # Errors
/// What `image` says.
pub(super) fn write_image(format: &str, dir: &Path) -> Result<PathBuf> {
    let image = dir.join(format);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["image", "--format", format, "-o"]).arg(&image);
    let output = command.output()?;
    ensure!(output.status.success(), "no image: {}", String::from_utf8_lossy(&output.stderr));
    Ok(image)
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
