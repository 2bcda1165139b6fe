//! The lab: a CD from which an emulated machine starts Linux with KVM, whose /init runs the scenarios.

use super::super::Tally;
use super::super::fixtures::Fixtures;
use super::super::medium::write_image;
use crate::bochs::{self, Emulation};
use crate::debian_kernel::{self, DebianKernel};
use crate::machine::{Chosen, Medium};
use crate::metal::Binaries;
use crate::run::RunDir;
use crate::tree::Tree;
use crate::{grub, guest_images, package, progress, qemu, setup};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Linux with KVM takes less than this for soft lock-ups below it.
const IPS: u64 = 50_000_000;
const MEMORY: u64 = 2 << 30;
/// The last line, which nothing cuts short: the machine is switched off from outside.
const END: &str = "the end";
/// Where the files are that the scenarios start from.
const PREBUILT: &str = "/lab";
/// No scenario takes so long; whoever is silent for it is dead.
const SILENCE: Duration = Duration::from_secs(600);
/// KVM's own mitigations and checks are not what is tested here; nor is `rep stosb`, which takes the emulator a tick a byte.
const LINUX: &str = "console=ttyS0,115200 quiet loglevel=1 mitigations=off init_on_alloc=0 clearcpuid=erms";
/// The image of this format is in the lab, too.
const DISK: &str = "uefi";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Ties QEMU's life to this program's; busybox has a lesser one.
const SETPRIV: &str = "/usr/bin/setpriv";
/// What QEMU's machines start from, wherever Debian has it.
const FIRMWARE: [&str; 8] = [
    qemu::OVMF,
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/multiboot.bin",
    "/usr/share/qemu/pvh.bin",
];

/// Runs the scenarios in it, passing on what they print.
///
/// # Errors
/// The lab cannot be made, or ends without a sum.
pub(super) fn run(binaries: &Binaries, fixtures: &Fixtures, only: Option<&str>) -> Result<Tally> {
    setup::ensure_machine(Chosen::Bochs)?;
    setup::ensure_packages("the nested lab", &qemu::PACKAGES)?;
    setup::ensure_packages("the nested lab", &qemu::OVMF_PACKAGES)?;
    setup::ensure_packages("the nested lab", &grub::PACKAGES)?;
    setup::ensure_packages("the nested lab", &guest_images::INITRAMFS_PACKAGES)?;
    let kernel = {
        let _lock = guest_images::lock()?;
        debian_kernel::fetch()?
    };
    let dir = RunDir::create()?;
    let cd = dir.path().join("lab.iso");
    let disk = std::fs::read(write_image(DISK, dir.path())?)?;
    let script = script(&kernel, disk.len(), only);
    write_cd(dir.path(), &cd, &kernel, &initramfs(binaries, fixtures, &kernel, &disk, script)?)?;
    let medium = Medium { image: &cd, is_cd: true, memory: MEMORY };
    let mut machine =
        bochs::start_medium(&medium, Emulation { ips: IPS, ..Emulation::default() }, dir.path())?;
    let line = machine.serial_line()?;
    line.set_read_timeout(Some(SILENCE))?;
    follow(BufReader::new(line))
}

/// Passes lines on until the sum.
fn follow(line: impl BufRead) -> Result<Tally> {
    for line in line.split(b'\n') {
        let line = line.context("the nested lab has gone silent")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if let Some(tally) = Tally::parse(line) {
            return Ok(tally);
        }
        if line == END {
            break;
        }
        progress::say(&format!("nested: {line}"));
    }
    bail!("the nested lab ended without a sum")
}

fn write_cd(work: &Path, cd: &Path, kernel: &DebianKernel, initramfs: &[u8]) -> Result<()> {
    let config = format!("linux /vmlinuz {LINUX}\ninitrd /initramfs\nboot\n");
    let linux = std::fs::read(&kernel.kernel).with_context(|| kernel.kernel.display().to_string())?;
    grub::write_iso(work, &config, &[("vmlinuz".into(), linux), ("initramfs".into(), initramfs.to_vec())], cd)
}

/// Busybox, KVM's modules, QEMU, this program, and what the scenarios start from.
fn initramfs(
    binaries: &Binaries,
    fixtures: &Fixtures,
    kernel: &DebianKernel,
    disk: &[u8],
    script: String,
) -> Result<Vec<u8>> {
    let xtask = std::env::current_exe()?;
    let mut tree = Tree::default();
    tree.file("/init", script.into_bytes())?;
    tree.copy("/bin/busybox", Path::new(guest_images::BUSYBOX))?;
    for program in [QEMU, SETPRIV] {
        tree.copy(program, Path::new(program))?;
    }
    tree.file("/bin/xtask", package::strip(&std::fs::read(&xtask)?)?)?;
    for library in libraries(&[Path::new(QEMU), Path::new(SETPRIV), &xtask])? {
        tree.copy(&library, Path::new(&library))?;
    }
    for file in FIRMWARE {
        tree.copy(file, Path::new(file))?;
    }
    for module in &kernel.modules {
        tree.copy(&format!("/modules/{}", name_of(module)), module)?;
    }
    for program in [&binaries.loader, &binaries.herald] {
        tree.copy(&format!("{PREBUILT}/{}", name_of(program)), program)?;
    }
    for name in ["testguest", guest_images::TINY_KERNEL, guest_images::TINY_INITRAMFS] {
        tree.copy(&format!("{PREBUILT}/{name}"), &fixtures.dir().join(name))?;
    }
    // The script makes it as long as it was.
    let used = disk.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    tree.file(&format!("{PREBUILT}/{DISK}"), disk[..used].to_vec())?;
    Ok(tree.finish())
}

fn name_of(path: &Path) -> String {
    crate::run::file_name(path)
}

/// The first program of the lab's Linux.
fn script(kernel: &DebianKernel, disk_bytes: usize, only: Option<&str>) -> String {
    let modules = kernel.modules.iter().map(|module| format!("insmod /modules/{}\n", name_of(module)));
    let modules: String = modules.collect();
    let only = only.map(|text| format!(" --only '{}'", text.replace('\'', "'\\''"))).unwrap_or_default();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc /sys /dev /tmp\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/usr/bin:/bin {variable}={PREBUILT} CARGO_TARGET_DIR=/tmp/target\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mkdir /dev/pts\n\
         mount -t devpts pts /dev/pts\n\
         exec >/dev/ttyS0 2>&1 </dev/null\n\
         ifconfig lo 127.0.0.1 up\n\
         truncate -s {disk_bytes} {PREBUILT}/{DISK}\n\
         {modules}\
         xtask test nested{only}\n\
         echo {END}\n\
         exec sleep 1000000\n",
        variable = crate::workspace::PREBUILT,
    )
}

/// The shared libraries, and the program that links them.
fn libraries(programs: &[&Path]) -> Result<BTreeSet<String>> {
    let output = Command::new("ldd").args(programs).output().context("cannot start ldd")?;
    if !output.status.success() {
        bail!("ldd: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.lines().filter(|line| line.starts_with(char::is_whitespace));
    let paths = paths.filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::{Tally, follow};

    #[test]
    fn the_sum_ends_the_lab() {
        let tally = follow(&b"ok      tiny (1.0 s)\r\n3 passed, 1 failed\r\nmore\n"[..]).expect("a sum");
        assert_eq!(tally, Tally { passed: 3, failed: 1 });
    }

    #[test]
    fn without_a_sum_it_has_failed() {
        assert!(follow(&b"Kernel panic\n"[..]).is_err());
    }
}
