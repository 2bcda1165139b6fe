//! `run`: builds, packs, starts a machine and follows it.

use crate::bochs::{self, Pace};
use crate::cli::{Guest, GuestArgs, MachineKind, RunArgs};
use crate::error::usage;
use crate::guests::{self, Guests};
use crate::machine::{self, Chosen, Hardware, Running};
use crate::metal::{self, Binaries};
use crate::package::{Package, strip};
use crate::plan::{self, GuestImages};
use crate::session::{Input, Records, Session, print_log};
use crate::terminal::RawTerminal;
use crate::{guest_images, setup, snapshots, symbols, workspace};
use abi::config::VmConfig;
use abi::package::Kind;
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A restored guest's: nobody looks for it.
const NO_KERNEL: u32 = u32::MAX;

/// A run that only has to be started.
pub(crate) struct Prepared {
    kind: Chosen,
    hardware: Hardware,
    images: machine::Images,
    guests: Vec<String>,
    /// Where snapshots are to go.
    snapshots: Option<snapshots::Target>,
    /// The file that is restored, kept from other runs.
    _held: Option<File>,
}

/// Runs a guest; the exit status.
///
/// # Errors
/// Bad arguments, or nothing could be started.
pub(crate) fn run(args: &RunArgs) -> Result<u8> {
    plan::check(args)?;
    let console = create("--console", args.console.as_deref())?;
    let telemetry = create("--telemetry", args.telemetry.as_deref())?;
    let prepared = Prepared::new(args)?;
    let terminal = if args.headless { None } else { RawTerminal::enter().context("the terminal")? };
    prepared.follow(Session {
        input: if terminal.is_some() { Input::Keys } else { Input::Stream },
        source: Box::new(std::io::stdin()),
        output: Box::new(std::io::stdout()),
        log: Box::new(print_log),
        console,
        telemetry: to_lines(telemetry),
        timeout: args.timeout.map(Duration::from_secs_f64),
    })
}

/// Writes each record as a JSON object on a line.
fn to_lines(file: Option<File>) -> Records {
    Box::new(move |record| {
        let Some(mut file) = file.as_ref() else { return Ok(()) };
        let line = serde_json::to_string(record)? + "\n";
        file.write_all(line.as_bytes()).context("--telemetry")
    })
}

impl Prepared {
    /// Builds and packs what the arguments ask for.
    ///
    /// # Errors
    /// Bad arguments, or something cannot be built.
    pub(crate) fn new(args: &RunArgs) -> Result<Self> {
        plan::check(args)?;
        let held = snapshots::hold(args)?;
        let choice = machine::choose(args.machine)?;
        if args.machine == MachineKind::Auto {
            eprintln!("xtask: machine {}: {}", choice.kind, choice.reason);
        }
        setup::ensure_machine(choice.kind)?;
        let binaries = metal::build()?;
        let guests = guests::of(args, &binaries)?;
        let package = pack(args, &binaries, &guests, machine::tsc_hz(choice.kind, args.ips))?;
        let hardware = Hardware {
            chipset: args.chipset,
            cpu: args.cpu,
            memory: args.host_memory,
            ips: args.ips,
            cpus: args.host_cpus,
            disk: args.disk,
            swap_disk: args.swap.unwrap_or_default().disk,
            snapshot: snapshots::disk(args, guests.all.iter().map(|guest| guest.memory).max().unwrap_or(0))?,
        };
        let images = machine::Images { loader: binaries.loader, package };
        let guests = guests.all.into_iter().map(|guest| guest.images.name).collect();
        let snapshots = snapshots::target(args)?;
        Ok(Self { kind: choice.kind, hardware, images, guests, snapshots, _held: held })
    }

    /// Names of the guests.
    pub(crate) fn guests(&self) -> &[String] {
        &self.guests
    }

    /// TSC frequency of the machine, where its maker knows it; else 0.
    pub(crate) fn tsc_hz(&self) -> u64 {
        machine::tsc_hz(self.kind, self.hardware.ips)
    }

    /// Starts the machine, and follows it to its end; the exit status.
    ///
    /// # Errors
    /// It cannot be started, or an output not be written.
    pub(crate) fn follow(&self, session: Session) -> Result<u8> {
        let dir = RunDir::create()?;
        let status = session.run(machine::start(self.kind, &self.hardware, &self.images, &dir.0)?)?;
        if let Some(target) = &self.snapshots {
            snapshots::keep(&dir.0, target)?;
        }
        Ok(status)
    }
}

impl Prepared {
    /// Starts Bochs in steps; nobody follows what the guests say.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_in_steps(&self, steps: Pace, dir: &RunDir) -> Result<Running> {
        bochs::start(&self.hardware, &self.images, steps, &dir.0)
    }
}

/// `build`: the bare-metal programs, and the symbols they would be packed with.
///
/// # Errors
/// The compiler's messages.
pub(crate) fn build_only() -> Result<u8> {
    let binaries = metal::build()?;
    let herald = strip(&read(&binaries.herald)?)?;
    eprintln!("xtask: {} ({} KiB to load)", binaries.herald.display(), herald.len() >> 10);
    Ok(0)
}

/// The images that the arguments name, made if they must be.
///
/// # Errors
/// They cannot be made.
pub(crate) fn guest_of(args: &GuestArgs, binaries: &Binaries) -> Result<GuestImages> {
    let Some(kernel) = &args.kernel else {
        let mut images = match args.guest {
            Guest::Tiny => guest_images::tiny(binaries)?,
            Guest::Debian => guest_images::debian(binaries)?,
        };
        if let Some(append) = &args.append {
            images.append = format!("{} {append}", images.append);
        }
        return Ok(images);
    };
    Ok(GuestImages {
        name: file_name(kernel),
        kernel: kernel.clone(),
        initrd: args.initrd.clone(),
        append: args.append.clone().unwrap_or_default(),
    })
}

fn pack(args: &RunArgs, binaries: &Binaries, guests: &Guests, tsc_hz: u64) -> Result<Vec<u8>> {
    let herald = read(&binaries.herald)?;
    let mut package = Package::default();
    package.add(Kind::Herald, "herald", strip(&herald)?);
    package.add(Kind::Symbols, "symbols", symbols::payload(&herald)?);
    let mut config = plan::boot_config(args, tsc_hz);
    guests.apply_settings(&mut config);
    let mut images = Images::default();
    for guest in &guests.all {
        let kernel = match args.restore {
            Some(_) => NO_KERNEL,
            None => images.add(&mut package, Kind::Kernel, "--kernel", &guest.images.kernel)?,
        };
        let initrd = guest.images.initrd.as_ref();
        let initrd =
            initrd.map(|initrd| images.add(&mut package, Kind::Initrd, "--initrd", initrd)).transpose()?;
        let vm = VmConfig {
            name: &guest.images.name,
            kernel,
            initrd,
            append: &guest.images.append,
            memory: guest.memory,
            vcpus: guest.vcpus,
            weight: guest.weight,
            balloon: guest.balloon,
            memory_max: guest.memory_max,
            memory_weight: guest.memory_weight,
            merge: guest.merge,
        };
        config.vms.push(vm).map_err(|vm| anyhow!("no room for guest {}", vm.name))?;
    }
    package.add(Kind::Config, "config", postcard::to_stdvec(&config)?);
    let package = package.encode()?;
    if package.len() as u64 >= args.host_memory {
        let (need, have) = (package.len() >> 20, args.host_memory >> 20);
        return Err(usage(format!("--host-memory {have}M: the images alone are {need} MiB")));
    }
    Ok(package)
}

/// Images of guests in a package: each file once, however many guests use it.
#[derive(Default)]
struct Images(Vec<(PathBuf, u32)>);

impl Images {
    /// The index of a file's entry.
    fn add(&mut self, package: &mut Package, kind: Kind, option: &str, path: &Path) -> Result<u32> {
        if let Some((_, index)) = self.0.iter().find(|(known, _)| known == path) {
            return Ok(*index);
        }
        let index = package.add(kind, &file_name(path), read_image(option, path)?);
        self.0.push((path.to_owned(), index));
        Ok(index)
    }
}

/// A file of this build.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// A file that an option names.
///
/// # Errors
/// It cannot be read: status 2.
pub(crate) fn read_image(option: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| usage(format!("{option} {}: {error}", path.display())))
}

/// The last part of a path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn create(option: &str, path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    let file = File::create(path).map_err(|error| usage(format!("{option} {}: {error}", path.display())))?;
    Ok(Some(file))
}

/// The directory of one machine, gone when the run ends.
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    /// A new directory of this process, which may have several machines at a time.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = workspace::runs().join(format!("{process}-{number}"));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes what runs left behind that were killed: their directories are named by process.
fn remove_leftovers() {
    for entry in std::fs::read_dir(workspace::runs()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
