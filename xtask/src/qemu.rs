//! QEMU as the machine: with KVM the real processor's VMX, nested; without it a processor that has none.
//!
//! Herald starts through the loader's PVH entry, with the package as its one module, or as firmware starts a medium. A
//! write of `v` to `isa-debug-exit` ends QEMU with status `2v + 1`; the link's `End` frame is what counts.

use crate::cli::Chipset;
use crate::machine::{Hardware, Images, Medium, Running, serial_listener, tied_command};
use crate::{snapshots, virtio_disk};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// Debian's package.
pub(crate) const PACKAGES: [&str; 1] = ["qemu-system-x86"];

/// The real processor.
pub(crate) const NESTED: [&str; 4] = ["-accel", "kvm", "-cpu", "host"];
/// One in software, with all that QEMU can do: no VMX. Herald comes up and says so.
pub(crate) const EMULATED: [&str; 4] = ["-accel", "tcg", "-cpu", "max"];

/// What starts a medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// Debian's package with [`OVMF`].
pub(crate) const OVMF_PACKAGES: [&str; 1] = ["ovmf"];
/// Firmware and its variables in one file.
pub(crate) const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

const fn machine(chipset: Chipset) -> &'static str {
    match chipset {
        Chipset::Q35 => "q35",
        Chipset::I440fx => "pc",
    }
}

/// Starts QEMU with all its files in `dir`.
///
/// # Errors
/// A file cannot be written, or QEMU not started.
pub(crate) fn start(processor: &[&str], hardware: &Hardware, images: &Images, dir: &Path) -> Result<Running> {
    std::fs::write(dir.join("package"), &images.package).context("cannot write the boot package")?;
    let mut command = command(processor, hardware.chipset, hardware.cpus, hardware.memory, dir);
    command.arg("-kernel").arg(&images.loader).args(["-initrd", "package"]);
    command.args(["-chardev", "stdio,id=link,signal=off"]);
    command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=link"]);
    virtio_disk::attach(&mut command, hardware.disk, hardware.swap_disk, dir)?;
    if let Some(disk) = &hardware.snapshot {
        let (path, _) = snapshots::image(disk, dir).context("the snapshot disk")?;
        // QEMU's option lists have commas doubled.
        let path = path.display().to_string().replace(',', ",,");
        command.args(["-drive", &format!("if=none,id=snapshot,format=raw,file={path}")]);
        command.args(["-device", "virtio-blk-pci,drive=snapshot"]);
    }
    spawn(command, dir)
}

/// Starts QEMU from a medium, by a BIOS or by UEFI, as hardware would. There is no debug console.
///
/// # Errors
/// QEMU cannot be started.
pub(crate) fn start_medium(
    processor: &[&str],
    medium: &Medium,
    firmware: Firmware,
    dir: &Path,
) -> Result<Running> {
    let mut command = command(processor, Chipset::Q35, 1, medium.memory, dir);
    command.args(["-vga", "std"]);
    if firmware == Firmware::Uefi {
        command.args(["-bios", OVMF]);
    }
    let media = if medium.is_cd { "cdrom" } else { "disk" };
    let path = medium.image.display();
    command.args([
        "-drive",
        &format!(
            "if=ide,format=raw,media={media},readonly={},file={path}",
            if medium.is_cd { "on" } else { "off" }
        ),
    ]);
    spawn(command, dir)
}

fn command(processor: &[&str], chipset: Chipset, cpus: u32, memory: u64, dir: &Path) -> Command {
    let mut command = tied_command("qemu-system-x86_64");
    command.current_dir(dir);
    command.args(processor).args(["-machine", machine(chipset), "-smp", &cpus.to_string()]);
    command.args(["-m", &format!("{}M", memory >> 20)]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0x501,iosize=0x02"]);
    command
}

fn spawn(mut command: Command, dir: &Path) -> Result<Running> {
    let (serial, address) = serial_listener()?;
    let log = dir.join("qemu.log");
    command.args(["-serial", &format!("tcp:127.0.0.1:{}", address.port())]);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let link = child.stdout.take().context("QEMU has no standard output")?;
    Ok(Running { child, link: Box::new(link), serial, log })
}
