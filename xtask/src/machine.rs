//! The machine that Herald runs on: which one, and what all of them offer to a session.

use crate::bochs::Pace;
use crate::cli::{Chipset, Cpu, Disk, MachineKind};
use crate::snapshots::SnapshotDisk;
use crate::toolchain::find_program;
use crate::{bochs, qemu};
use anyhow::{Result, bail};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// Between looks at a machine that starts.
const POLL: Duration = Duration::from_millis(20);

/// Which machine, and why it was chosen.
pub(crate) struct Choice {
    pub(crate) kind: Chosen,
    pub(crate) reason: String,
}

/// A machine that can run Herald.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chosen {
    /// QEMU with KVM.
    Kvm,
    /// QEMU alone, whose processor has no VMX.
    Tcg,
    /// Bochs.
    Bochs,
}

impl fmt::Display for Chosen {
    /// As `--machine` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Bochs => "bochs",
        })
    }
}

/// What a machine is made of.
pub(crate) struct Hardware {
    /// Of a kvm machine.
    pub(crate) chipset: Chipset,
    /// Of an emulated machine.
    pub(crate) cpu: Cpu,
    /// RAM in bytes, whole MiB.
    pub(crate) memory: u64,
    /// Instructions a second of an emulated machine's time.
    pub(crate) ips: u64,
    /// Processors.
    pub(crate) cpus: u32,
    /// Of QEMU's machines.
    pub(crate) disk: Disk,
    /// Bytes of the disk that is swapped to; 0: none was asked for.
    pub(crate) swap_disk: u64,
    /// The disk for a snapshot.
    pub(crate) snapshot: Option<SnapshotDisk>,
}

/// What it starts from.
pub(crate) struct Images {
    /// The loader's ELF file.
    pub(crate) loader: PathBuf,
    /// The boot package.
    pub(crate) package: Vec<u8>,
}

/// A CD or a disk that firmware starts, and the machine around it.
pub(crate) struct Medium<'a> {
    /// The image.
    pub(crate) image: &'a Path,
    /// Whether it is a CD.
    pub(crate) is_cd: bool,
    /// RAM in bytes, whole MiB.
    pub(crate) memory: u64,
}

/// A started machine.
pub(crate) struct Running {
    /// Killed on every way out; dies with this process where the system can arrange that.
    pub(crate) child: Child,
    /// Bytes of the debug console: the link.
    pub(crate) link: Box<dyn Read + Send>,
    /// The machine connects here for its serial input.
    pub(crate) serial: TcpListener,
    /// The machine's own log, for the message when it dies.
    pub(crate) log: PathBuf,
}

impl Running {
    /// The serial line, once the machine has connected to it.
    ///
    /// # Errors
    /// The machine is gone, or the system refuses.
    pub(crate) fn serial_line(&mut self) -> Result<TcpStream> {
        self.serial.set_nonblocking(true)?;
        loop {
            match self.serial.accept() {
                Ok((line, _)) => {
                    line.set_nonblocking(false)?;
                    line.set_nodelay(true)?;
                    return Ok(line);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the machine stopped at once ({status}); {} may tell why", self.log.display());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Picks a machine.
///
/// # Errors
/// KVM was asked for by name, and cannot run Herald here.
pub(crate) fn choose(asked: MachineKind) -> Result<Choice> {
    match (asked, nested_vmx()) {
        (MachineKind::Bochs, _) => Ok(Choice { kind: Chosen::Bochs, reason: "asked for".into() }),
        (MachineKind::Tcg, _) => Ok(Choice { kind: Chosen::Tcg, reason: "asked for".into() }),
        (MachineKind::Kvm | MachineKind::Auto, Ok(())) => {
            Ok(Choice { kind: Chosen::Kvm, reason: "KVM offers VMX to its guests here".into() })
        }
        (MachineKind::Auto, Err(reason)) => {
            Ok(Choice { kind: Chosen::Bochs, reason: format!("no KVM with nested VMX: {reason}") })
        }
        (MachineKind::Kvm, Err(reason)) => bail!("--machine kvm: {reason}"),
    }
}

/// TSC frequency of the chosen machine, where its maker knows it; else 0. An emulated one has a tick an instruction.
pub(crate) fn tsc_hz(kind: Chosen, ips: u64) -> u64 {
    match kind {
        Chosen::Bochs => ips,
        Chosen::Kvm | Chosen::Tcg => 0,
    }
}

/// Starts the machine with its files in `dir`.
///
/// # Errors
/// A file cannot be written, or the program not started.
pub(crate) fn start(kind: Chosen, hardware: &Hardware, images: &Images, dir: &Path) -> Result<Running> {
    match kind {
        Chosen::Bochs => bochs::start(hardware, images, Pace::Free, dir),
        Chosen::Kvm => qemu::start(&qemu::NESTED, hardware, images, dir),
        Chosen::Tcg => qemu::start(&qemu::EMULATED, hardware, images, dir),
    }
}

/// Whether KVM here gives VMX to its guests. A /dev/kvm alone proves nothing.
fn nested_vmx() -> Result<(), String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm: {error}"));
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or("");
    if !flags.split_whitespace().any(|flag| flag == "vmx") {
        return Err("this processor offers no VMX".into());
    }
    let nested = "/sys/module/kvm_intel/parameters/nested";
    match std::fs::read_to_string(nested).as_deref().map(str::trim) {
        Ok("Y" | "1") => Ok(()),
        Ok(value) => Err(format!("kvm_intel has nested={value}")),
        Err(error) => Err(format!("{nested}: {error}")),
    }
}

/// A listener for the machine's serial line, on a port that the system picks.
///
/// # Errors
/// The system has none.
pub(crate) fn serial_listener() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// A command whose process is killed when this one dies, however it dies.
pub(crate) fn tied_command(program: &str) -> std::process::Command {
    let Some(setpriv) = find_program("setpriv") else { return std::process::Command::new(program) };
    let mut command = std::process::Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", program]);
    command
}
