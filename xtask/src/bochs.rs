//! The Bochs emulator as the machine: its processor models implement VMX in software.
//!
//! One instruction is one tick of the TSC; `ips` says how many make a second of the machine's time. A low
//! value makes waits on clocks short in instructions. `clock: sync=none` makes runs repeatable.

use crate::cli::Cpu;
use crate::disk::{CYLINDER, Disk, geometry};
use crate::machine::{Hardware, Images, Medium, Running, serial_listener, tied_command};
use crate::snapshots::{self, SnapshotDisk};
use crate::swap::make_disk;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Stdio;

/// Instructions, and so TSC ticks, a second of the machine's time.
pub(crate) const IPS: u64 = 20_000_000;
/// What the models lack: IA32_MISC_ENABLE, whose bit 0, fast strings, is set after reset (SDM vol. 4, table 2-2). Without it Linux
/// takes `rep stosq` and `rep movsq` for slow.
const REGISTERS: &str = "# address type reset-hi reset-lo reserved-hi reserved-lo ignored-hi ignored-lo\n\
                         0x1a0 0 00000000 00000001 00000000 00000000 00000000 00000000\n";
/// Debian packages: the emulator, and the ROMs that it starts from.
pub(crate) const PACKAGES: [&str; 4] = ["bochs", "bochs-term", "bochsbios", "vgabios"];
/// Most memory that Bochs keeps in its own; the rest of a larger machine it pages to a file.
const RESIDENT_MIB: u64 = 2048;

/// Its name of a processor model.
pub(crate) const fn model(cpu: Cpu) -> &'static str {
    match cpu {
        Cpu::Haswell => "corei7_haswell_4770",
        Cpu::Sandybridge => "corei7_sandy_bridge_2600k",
        Cpu::Penryn => "core2_penryn_t9600",
        Cpu::Skylake => "corei7_skylake_x",
    }
}

/// How its debugger runs the machine, which does not notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// To the end.
    Free,
    /// In so many steps of so many ticks; after each it prints the next instruction and its address.
    Steps { count: usize, ticks: u64 },
    /// The same from the first break on: an `xchg bx, bx`, which does nothing.
    StepsFromBreak { count: usize, ticks: u64 },
    /// From each break to the next, so many times, it prints all instructions and accesses to memory of all processors; from
    /// there to the next but one, none.
    Traced { times: usize, cpus: u32 },
}

impl Pace {
    /// The debugger in Debian's build stops before the first instruction and waits for commands.
    fn commands(self) -> String {
        match self {
            Self::Free => "c\n".to_owned(),
            Self::Steps { count, ticks } => format!("s {ticks}\n").repeat(count) + "c\n",
            Self::StepsFromBreak { count, ticks } => {
                "c\n".to_owned() + &Self::Steps { count, ticks }.commands()
            }
            Self::Traced { times, cpus } => {
                let all = |what: &str| -> String {
                    let of = |cpu| format!("set $cpu = {cpu}\ntrace {what}\ntrace-mem {what}\n");
                    (0..cpus).map(of).collect()
                };
                format!("c\n{}c\n{}", all("on"), all("off")).repeat(times) + "c\n"
            }
        }
    }

    const fn has_breaks(self) -> bool {
        matches!(self, Self::StepsFromBreak { .. } | Self::Traced { .. })
    }
}

/// How a machine that boots from a medium is emulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emulation {
    pub(crate) cpu: Cpu,
    pub(crate) cpus: u32,
    /// Instructions a second of the machine's time.
    pub(crate) ips: u64,
    pub(crate) pace: Pace,
}

impl Default for Emulation {
    fn default() -> Self {
        Self { cpu: Cpu::Haswell, cpus: 1, ips: IPS, pace: Pace::Free }
    }
}

/// Starts Bochs by the loader's boot sector, with all its files in `dir`.
///
/// # Errors
/// A file cannot be written, or Bochs not started.
pub(crate) fn start(hardware: &Hardware, images: &Images, pace: Pace, dir: &Path) -> Result<Running> {
    let loader = std::fs::read(&images.loader).with_context(|| images.loader.display().to_string())?;
    let disk = Disk::new(&loader, &images.package)?;
    std::fs::write(dir.join("disk"), &disk.bytes).context("cannot write the machine's disk")?;
    let swap = match hardware.swap_disk {
        0 => String::new(),
        bytes => swap_drive(bytes, dir).context("cannot write the swap disk")?,
    };
    let snapshot = match &hardware.snapshot {
        None => String::new(),
        Some(disk) => snapshot_drive(disk, dir).context("the snapshot disk")?,
    };
    let machine = Machine {
        cpu: hardware.cpu,
        memory: hardware.memory,
        cpus: hardware.cpus,
        ips: hardware.ips,
        drive: format!(
            "ata0-master: type=disk, mode=flat, path=disk, {}{snapshot}{swap}",
            geometry(disk.bytes.len() as u64)
        ),
        boot: "disk",
        debug_console: true,
        pace,
    };
    machine.start(dir)
}

/// A disk on the second channel, which is Herald's.
fn swap_drive(bytes: u64, dir: &Path) -> std::io::Result<String> {
    let len = make_disk(&dir.join("swap"), bytes, CYLINDER)?;
    Ok(format!(
        "\nata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
         ata1-master: type=disk, mode=flat, path=swap, {}",
        geometry(len)
    ))
}

/// A disk beside the one that the BIOS boots.
fn snapshot_drive(disk: &SnapshotDisk, dir: &Path) -> std::io::Result<String> {
    let (path, bytes) = snapshots::image(disk, dir)?;
    Ok(format!("\nata0-slave: type=disk, mode=flat, path=\"{}\", {}", path.display(), geometry(bytes)))
}

/// Starts Bochs from a medium, by its BIOS, as hardware would. There is no debug console.
///
/// # Errors
/// As for [`start`].
pub(crate) fn start_medium(medium: &Medium, how: Emulation, dir: &Path) -> Result<Running> {
    let path = medium.image.display();
    let machine = Machine {
        cpu: how.cpu,
        memory: medium.memory,
        cpus: how.cpus,
        ips: how.ips,
        drive: if medium.is_cd {
            format!("ata0-master: type=cdrom, path=\"{path}\", status=inserted")
        } else {
            let geometry = geometry(medium.image.metadata()?.len());
            format!("ata0-master: type=disk, mode=flat, path=\"{path}\", {geometry}")
        },
        boot: if medium.is_cd { "cdrom" } else { "disk" },
        debug_console: false,
        pace: how.pace,
    };
    machine.start(dir)
}

struct Machine {
    cpu: Cpu,
    memory: u64,
    cpus: u32,
    ips: u64,
    drive: String,
    boot: &'static str,
    debug_console: bool,
    pace: Pace,
}

impl Machine {
    fn start(&self, dir: &Path) -> Result<Running> {
        let (serial, address) = serial_listener()?;
        std::fs::write(dir.join("bochsrc"), self.config(address.port()))?;
        std::fs::write(dir.join("commands"), self.pace.commands())?;
        std::fs::write(dir.join("registers"), REGISTERS)?;
        let mut command = tied_command("bochs");
        command.args(["-q", "-f", "bochsrc", "-rc", "commands"]).current_dir(dir);
        // A group of its own: Ctrl-C in the terminal is for this program, which then ends Bochs.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let errors = std::fs::File::create(dir.join("stderr"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().context("cannot start bochs")?;
        let link = child.stdout.take().context("bochs has no standard output")?;
        Ok(Running { child, link: Box::new(link), serial, log: dir.join("bochs.log") })
    }

    fn config(&self, port: u16) -> String {
        let mib = self.memory >> 20;
        let resident = mib.min(RESIDENT_MIB);
        let Self { cpus, ips, drive, boot, .. } = self;
        format!(
            "plugin_ctrl: unmapped=1, biosdev=1\n\
             display_library: rfb, options=\"timeout=0\"\n\
             romimage: file=$BXSHARE/BIOS-bochs-latest\n\
             vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest\n\
             cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, msrs=registers\n\
             memory: guest={mib}, host={resident}\n\
             clock: sync=none, time0=utc\n\
             pci: enabled=1, chipset=i440fx\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             {drive}\n\
             boot: {boot}\n\
             port_e9_hack: enabled={console}\n\
             magic_break: enabled={breaks}\n\
             com1: enabled=1, mode=socket-client, dev=localhost:{port}\n\
             log: bochs.log\n\
             panic: action=fatal\n\
             error: action=report\n\
             info: action=report\n\
             debug: action=ignore\n",
            model = model(self.cpu),
            console = u8::from(self.debug_console),
            breaks = u8::from(self.pace.has_breaks()),
        )
    }
}
