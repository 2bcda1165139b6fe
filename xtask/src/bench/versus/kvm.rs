//! KVM's side: Debian's Linux with KVM on the emulated machine, whose /init runs the monitor `kvm-vmm` with the same guest.
//!
//! ```text
//!   Bochs ─► GRUB ─► Linux, from an initramfs ─► kvm.ko, kvm-intel.ko, swap to zram ─► kvm-vmm ─► the guest, in 4 KiB pages
//!                                                                                      kvm-vmm ─► the guest, in 2 MiB pages
//!                         kvm-intel.ko anew, ept=0 ──────────────────────────────────► kvm-vmm ─► the guest, shadowed, in both
//! ```

use super::super::IPS;
use super::super::profile::Row;
use super::events::Contents;
use super::rows::{Figures, Variant};
use crate::bochs::{self, Emulation, Pace};
use crate::cli::Cpu;
use crate::debian_kernel::{self, DebianKernel};
use crate::machine::{Chosen, Medium};
use crate::progress::{self, Step};
use crate::run::{RunDir, file_name};
use crate::tree::Tree;
use crate::{grub, guest_images, setup, workspace};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MEMORY: u64 = 1 << 30;
/// What is fair to KVM, and repeatable: no mitigations, no zeroing of pages that the guest has zeroed anyway, no addresses at
/// random, no watchdog. And it does not know of fast `rep stosb`, since the emulator takes a tick a byte: so it zeroes and copies by
/// `rep stosq` and `rep movsq`, as Herald does.
pub(super) const LINUX: &str = "console=ttyS0,115200 quiet loglevel=1 mitigations=off init_on_alloc=0 nokaslr \
                                norandmaps nowatchdog audit=0 clearcpuid=erms";
/// On one processor Linux takes the lock prefixes out of its code, which Herald does not.
const SMP: &str = "noreplace-smp";
/// With two, one that idles waits for interrupts: Bochs' MONITOR drops others' translations of the physical address, taken for a linear one,
/// so that what they write there need not end an MWAIT.
const HALTS: &str = "idle=halt";
/// Bytes of the swap in compressed memory.
const SWAP: &str = "256M";
/// RAM of the guest, in MiB.
const GUEST_MIB: u32 = 64;
/// Whoever is silent for so long is dead.
const SILENCE: Duration = Duration::from_secs(600);
/// What links the monitor: the C library that it brings along is in the second.
pub(crate) const MONITOR_PACKAGES: [&str; 2] = ["gcc", "libc6-dev"];
/// The target whose C library can be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";
pub(super) const END: &str = "the end";
const KERNEL: &str = "kernel: ";
pub(super) const VARIANT: &str = "variant: ";
pub(super) const STATUS: &str = "status: ";
const STRINGS: &str = "strings:";

/// What a run says.
pub(super) struct Said {
    /// Linux' release.
    pub(super) kernel: String,
    /// How it zeroes and copies pages.
    pub(super) contents: Contents,
    pub(super) figures: Figures,
}

/// Runs all variants, with so many pages each.
///
/// # Errors
/// Something is missing and cannot be installed or built, or a guest fails.
pub(super) fn measure(guest: &Path, pages: u64, cpu: Cpu) -> Result<Said> {
    let side = Side { cpu, ..Side::make("")? };
    side.run(&[("/guest", guest)], &side.runs(pages), Pace::Free, follow, pass_over).map(|(said, ())| said)
}

/// Nobody looks at it, but it has to be read.
fn pass_over(mut printed: Box<dyn BufRead>) {
    // Bochs' end ends it.
    let _ = std::io::copy(&mut printed, &mut std::io::sink());
}

/// What a guest says of its events, and what `watch` makes of the traces of so many at most.
pub(in super::super) type Traced<S> = (Vec<Row>, S);

/// Runs the guest on an EPT with this command line, traced between its breaks, on so many processors, with as many of its own: one or two.
///
/// # Errors
/// As for [`measure`].
pub(in super::super) fn traced<S: Send + 'static>(
    guest: &Path,
    append: &str,
    (times, cpus): (usize, u32),
    watch: impl FnOnce(Box<dyn BufRead>) -> S + Send + 'static,
) -> Result<Traced<S>> {
    let (linux, second) = if cpus > 1 { (HALTS, "--second ") } else { ("", "") };
    let side = Side { cpus, ..Side::make(&format!("{SMP} {linux}"))? };
    let monitor = format!("kvm-vmm {second}/guest {GUEST_MIB} '{append}'");
    let runs = side.with_paging(Variant::Ept.kvm_module(), true) + &of_variant(Variant::Ept, &monitor);
    let (said, seen) = side.run(&[("/guest", guest)], &runs, Pace::Traced { times, cpus }, follow, watch)?;
    let rows = said.figures.of(Variant::Ept).iter();
    let rows = rows.map(|(event, cost)| Row { event: event.clone(), ticks: cost.ticks, pages: cost.pages });
    Ok((rows.collect(), seen))
}

/// A Linux with KVM, and the monitor.
pub(super) struct Side {
    monitor: PathBuf,
    kernel: DebianKernel,
    /// Linux' command line.
    options: String,
    cpu: Cpu,
    /// Processors of the machine.
    cpus: u32,
}

impl Side {
    /// More of Linux' command line, if need be.
    ///
    /// # Errors
    /// Something is missing and cannot be installed or built.
    pub(super) fn make(options: &str) -> Result<Self> {
        setup::ensure_machine(Chosen::Bochs)?;
        setup::ensure_packages("a Linux with KVM", &grub::PACKAGES)?;
        setup::ensure_packages("a Linux with KVM", &guest_images::INITRAMFS_PACKAGES)?;
        setup::ensure_packages("KVM's monitor", &MONITOR_PACKAGES)?;
        let monitor = build()?;
        let _lock = guest_images::lock()?;
        let options = format!("{LINUX} {options}");
        Ok(Self {
            monitor,
            kernel: debian_kernel::fetch().context("a Linux with KVM")?,
            options,
            cpu: Cpu::Haswell,
            cpus: 1,
        })
    }

    /// Starts it with these files; its first program does `runs`, `follow` hears what the machine says, and `watch` what Bochs
    /// prints of it, to its end.
    ///
    /// # Errors
    /// It cannot be started, or what `follow` says.
    pub(super) fn run<T, S: Send + 'static>(
        &self,
        files: &[(&str, &Path)],
        runs: &str,
        pace: Pace,
        follow: impl FnOnce(Box<dyn BufRead>) -> Result<T>,
        watch: impl FnOnce(Box<dyn BufRead>) -> S + Send + 'static,
    ) -> Result<(T, S)> {
        let dir = RunDir::create()?;
        let cd = dir.path().join("kvm.iso");
        let config = format!("linux /vmlinuz {}\ninitrd /initramfs\nboot\n", self.options);
        let linux = &self.kernel.kernel;
        let linux = std::fs::read(linux).with_context(|| linux.display().to_string())?;
        let files = [("vmlinuz".into(), linux), ("initramfs".into(), self.initramfs(files, runs)?)];
        grub::write_iso(dir.path(), &config, &files, &cd)?;
        let medium = Medium { image: &cd, is_cd: true, memory: MEMORY };
        let how = Emulation { cpu: self.cpu, cpus: self.cpus, ips: IPS, pace };
        let mut machine = bochs::start_medium(&medium, how, dir.path())?;
        let printed = std::mem::replace(&mut machine.link, Box::new(std::io::empty()));
        let watcher = std::thread::spawn(move || watch(Box::new(BufReader::new(printed))));
        let line = machine.serial_line()?;
        line.set_read_timeout(Some(SILENCE))?;
        let said = follow(Box::new(BufReader::new(line)))?;
        drop(machine);
        let seen = watcher.join().map_err(|_| anyhow!("the watcher has panicked"))?;
        Ok((said, seen))
    }

    fn initramfs(&self, files: &[(&str, &Path)], runs: &str) -> Result<Vec<u8>> {
        let mut tree = Tree::default();
        tree.file("/init", script(&self.kernel, runs).into_bytes())?;
        tree.copy("/bin/busybox", Path::new(guest_images::BUSYBOX))?;
        tree.file("/bin/kvm-vmm", crate::package::strip(&std::fs::read(&self.monitor).context("kvm-vmm")?)?)?;
        for (name, file) in files {
            tree.copy(name, file)?;
        }
        for module in self.kernel.modules.iter().chain(&self.kernel.swap_modules) {
            tree.copy(&format!("/modules/{}", file_name(module)), module)?;
        }
        Ok(tree.finish())
    }

    /// All variants.
    fn runs(&self, pages: u64) -> String {
        let (mut runs, mut paging) = (String::new(), "");
        for variant in Variant::ALL {
            if variant.kvm_module() != paging {
                runs.push_str(&self.with_paging(variant.kvm_module(), paging.is_empty()));
                paging = variant.kvm_module();
            }
            let monitor = format!("kvm-vmm /guest {GUEST_MIB} '{}'", variant.command_line(pages));
            runs.push_str(&of_variant(variant, &monitor));
        }
        runs
    }

    /// KVM's own module, with this option; anew, unless it is the first time.
    pub(super) fn with_paging(&self, option: &str, is_first: bool) -> String {
        let [.., intel] = &self.kernel.modules;
        let out = if is_first { "" } else { "rmmod kvm_intel\n" };
        format!("{out}insmod /modules/{} {option}\n", file_name(intel))
    }
}

/// A run of the monitor.
pub(super) fn of_variant(variant: Variant, monitor: &str) -> String {
    format!("echo {VARIANT}{}\n{monitor}\necho {STATUS}$?\n", variant.name())
}

/// The monitor, which needs no library where it runs.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = workspace::target().join("kvm-vmm");
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).args(["build", "--release", "--package", "kvm-vmm"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(&target);
    command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("RUSTFLAGS");
    progress::run("building KVM's monitor", &mut command)?;
    Ok(target.join(TARGET).join("release/kvm-vmm"))
}

/// The first program of that Linux.
fn script(kernel: &DebianKernel, runs: &str) -> String {
    let insert = |module: &PathBuf| format!("insmod /modules/{}\n", file_name(module));
    let [common @ .., _] = &kernel.modules;
    let modules: String = common.iter().chain(&kernel.swap_modules).map(insert).collect();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc /sys /dev /tmp\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t debugfs debug /sys/kernel/debug\n\
         exec >/dev/ttyS0 2>&1 </dev/null\n\
         echo {KERNEL}$(uname -r)\n\
         echo {STRINGS}$(grep -m 1 ^flags /proc/cpuinfo | grep -o -w -E 'rep_good|erms')\n\
         {modules}\
         echo {SWAP} >/sys/block/zram0/disksize\n\
         mkswap /dev/zram0 >/dev/null\n\
         swapon /dev/zram0\n\
         echo 0 >/proc/sys/vm/page-cluster\n\
         echo y >/sys/kernel/mm/lru_gen/enabled\n\
         {runs}\
         echo {END}\n\
         exec sleep 1000000\n"
    )
}

/// Takes in what the machine says, to its end.
fn follow(lines: impl BufRead) -> Result<Said> {
    let mut step = Step::new("measuring KVM");
    let mut said =
        Said { kernel: String::new(), contents: Contents::of_linux(""), figures: Figures::default() };
    let mut variant = None;
    for line in lines.split(b'\n') {
        let line = line.context("the Linux with KVM has gone silent")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        step.tick(&line);
        if line == END {
            ensure!(!said.figures.is_empty(), "the Linux with KVM has measured nothing");
            return Ok(said);
        }
        if let Some(name) = line.strip_prefix(VARIANT) {
            variant = Variant::of(name);
        } else if let Some(release) = line.strip_prefix(KERNEL) {
            release.clone_into(&mut said.kernel);
        } else if let Some(flags) = line.strip_prefix(STRINGS) {
            said.contents = Contents::of_linux(flags);
        } else if let Some(status) = line.strip_prefix(STATUS) {
            ensure!(status == "0", "the guest of KVM ended with {status}");
        } else if !variant.is_some_and(|variant| said.figures.take(variant, &line)) && !line.is_empty() {
            eprintln!("kvm: {line}");
        }
    }
    bail!("the Linux with KVM ended without a result")
}

#[cfg(test)]
mod tests {
    use super::{Variant, follow};

    #[test]
    fn figures_belong_to_the_variant_that_was_named() {
        let text = "kernel: 6.1.0\r\nstrings: rep_good\nvariant: ept\nrow: fork ticks=8 pages=4 exits=1 flushes=0\n\
                    versus: ok\nstatus: 0\nvariant: shadow\nrow: fork ticks=4 pages=4 exits=1 flushes=0\n\
                    status: 0\nthe end\n";
        let said = follow(text.as_bytes()).expect("figures");
        assert_eq!(said.kernel, "6.1.0");
        let ticks = |variant| said.figures.cost(variant, "fork").map(|cost| cost.ticks);
        assert_eq!(
            [ticks(Variant::Ept), ticks(Variant::Huge), ticks(Variant::Shadow)],
            [Some(8), None, Some(4)]
        );
    }

    #[test]
    fn a_guest_that_fails_ends_it() {
        let text = "variant: ept\nversus: FAILED: word [3]: expected 0x1, found 0x0\nstatus: 1\nthe end\n";
        assert!(follow(text.as_bytes()).is_err());
        assert!(follow("Kernel panic\n".as_bytes()).is_err());
        assert!(follow("the end\n".as_bytes()).is_err());
    }
}
