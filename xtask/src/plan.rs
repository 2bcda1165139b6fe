//! From arguments to a boot package: what is asked for is checked here, before anything is built.
//!
//! Whether a file is a kernel at all is for Herald to say, which reads it; only what no machine could
//! start from is refused here.

use crate::cli::{Backing, GuestArgs, Inject, LogLevel, Paging, RunArgs};
use crate::error::usage;
use crate::size::show_size;
use crate::snapshots;
use abi::config;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Least RAM of a guest: a kernel at 1 MiB, and its tables.
const LEAST_GUEST_MEMORY: u64 = 4 << 20;
/// Least RAM of the machine: Herald, a package, a guest.
const LEAST_HOST_MEMORY: u64 = 64 << 20;
/// Most processors of the machine: what the emulators and Herald agree on.
const MAX_HOST_CPUS: u32 = 8;
/// One of so many blocks of the swap disk, or of requests to write to it, fails, where that is asked for.
const FAULT_EVERY: u32 = 8;
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A guest's images.
#[derive(Clone, Debug)]
pub(crate) struct GuestImages {
    pub(crate) name: String,
    /// Empty where the guest is restored from a snapshot.
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) append: String,
}

/// Refuses what cannot be run.
///
/// # Errors
/// One sentence that names the option; status 2.
pub(crate) fn check(args: &RunArgs) -> Result<()> {
    for (option, count, most) in [
        ("--vcpus", args.vcpus, config::MAX_VCPUS),
        ("--vms", args.vms, config::MAX_VMS as u32),
        ("--host-cpus", args.host_cpus, MAX_HOST_CPUS),
    ] {
        if !(1..=most).contains(&count) {
            return Err(usage(format!("{option} {count}: 1 to {most}")));
        }
    }
    check_guest(&args.guest, args.host_memory)?;
    check_balloon(args)?;
    snapshots::check(args)?;
    if let Some(bytes) = args.memory_max {
        at_least("--memory-max", "a guest", bytes, LEAST_GUEST_MEMORY)?;
    }
    at_least("--host-memory", "the machine", args.host_memory, LEAST_HOST_MEMORY)?;
    if !args.host_memory.is_multiple_of(MIB) {
        return Err(usage(format!("--host-memory {}: a multiple of 1M, please", args.host_memory)));
    }
    Ok(())
}

/// Refuses a guest that no machine of this much memory could start.
///
/// # Errors
/// As for [`check`].
pub(crate) fn check_guest(guest: &GuestArgs, host_memory: u64) -> Result<()> {
    at_least("--memory", "a guest", guest.memory, LEAST_GUEST_MEMORY)?;
    if !guest.memory.is_multiple_of(PAGE) {
        return Err(usage(format!("--memory {}: a multiple of 4K, please", guest.memory)));
    }
    for (option, file) in [("--kernel", &guest.kernel), ("--initrd", &guest.initrd)] {
        if let Some(file) = file {
            check_file(option, file, host_memory)?;
        }
    }
    Ok(())
}

fn check_balloon(args: &RunArgs) -> Result<()> {
    let Some(bytes) = args.balloon else { return Ok(()) };
    at_least("--balloon", "a guest", bytes, LEAST_GUEST_MEMORY)?;
    if bytes > args.guest.memory {
        let memory = show_size(args.guest.memory);
        return Err(usage(format!("--balloon {}: more than its {memory}", show_size(bytes))));
    }
    Ok(())
}

fn at_least(option: &str, who: &str, bytes: u64, least: u64) -> Result<()> {
    if bytes >= least {
        return Ok(());
    }
    let (shown, least) = (show_size(bytes), show_size(least));
    Err(usage(format!("{option}: {shown} is too little, {who} needs at least {least}")))
}

/// Refuses a file that is no image.
///
/// # Errors
/// One sentence that names `option` and the file.
pub(crate) fn check_file(option: &str, path: &Path, host_memory: u64) -> Result<()> {
    let refuse = |why: String| Err(usage(format!("{option} {}: {why}", path.display())));
    match path.metadata() {
        Err(error) => refuse(error.to_string()),
        Ok(meta) if !meta.is_file() => refuse("no regular file".into()),
        Ok(meta) if meta.len() == 0 => refuse("the file is empty".into()),
        Ok(meta) if meta.len() >= host_memory => refuse(format!(
            "{} do not fit into {} of machine memory",
            show_size(meta.len()),
            show_size(host_memory)
        )),
        Ok(_) => Ok(()),
    }
}

/// Herald's configuration, but for the guests.
pub(crate) fn boot_config(args: &RunArgs, tsc_hz: u64) -> config::BootConfig<'static> {
    let injected = |fault| args.inject.contains(&fault);
    config::BootConfig {
        vms: heapless::Vec::new(),
        paging: match args.paging {
            Paging::Auto => config::Paging::Auto,
            Paging::Ept => config::Paging::Ept,
            Paging::Shadow => config::Paging::Shadow,
        },
        backing: match args.backing {
            Backing::Anonymous => config::Backing::Anonymous,
            Backing::HugePages => config::Backing::HugePages,
            Backing::GiganticPages => config::Backing::GiganticPages,
            Backing::Shared => config::Backing::Shared,
        },
        ept_ad: !args.no_ept_ad,
        apic_virtualisation: args.apic_virtualisation,
        zero_ahead: !args.no_zero_ahead,
        proactive: args.proactive,
        merge_share: args.merge_share.unwrap_or(config::MERGE_SHARE),
        snapshot: match (&args.snapshot, &args.restore) {
            (Some(_), Some(_)) => config::Snapshot::RestoreAndTake,
            (Some(_), None) => config::Snapshot::Take,
            (None, Some(_)) => config::Snapshot::Restore,
            (None, None) => config::Snapshot::None,
        },
        swap: args.swap.unwrap_or_default().config(),
        log: log_level(args.log),
        oracle: args.oracle,
        telemetry_rate: args.telemetry_rate,
        inject: config::Inject {
            no_vmx: injected(Inject::NoVmx),
            vmx_locked_off: injected(Inject::VmxLockedOff),
            fail_entry: injected(Inject::FailEntry),
            drop_notifiers: injected(Inject::DropNotifiers),
            x2apic: injected(Inject::X2apic),
            panic: injected(Inject::Panic),
            stir: args.stir,
            host_operations: args.host_operations,
            swap_slots: args.swap_slots,
            swap_faults: config::SwapFaults {
                read_every: if injected(Inject::SwapReadErrors) { FAULT_EVERY } else { 0 },
                write_every: if injected(Inject::SwapWriteErrors) { FAULT_EVERY } else { 0 },
            },
            kills: args.kills,
            storm: args.storm,
        },
        tsc_hz,
    }
}

/// Herald's word for a threshold.
pub(crate) fn log_level(level: LogLevel) -> config::LogLevel {
    match level {
        LogLevel::Error => config::LogLevel::Error,
        LogLevel::Warn => config::LogLevel::Warn,
        LogLevel::Info => config::LogLevel::Info,
        LogLevel::Debug => config::LogLevel::Debug,
        LogLevel::Trace => config::LogLevel::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::cli::{Cli, Command, RunArgs};
    use crate::error::{USAGE, status_of};
    use clap::Parser;

    fn args(words: &[&str]) -> RunArgs {
        let cli = Cli::try_parse_from(["xtask", "run"].iter().chain(words)).expect("parses");
        match cli.command {
            Command::Run(args) => *args,
            _ => panic!("not `run`"),
        }
    }

    fn refusal(words: &[&str]) -> String {
        let error = check(&args(words)).expect_err("refused");
        assert_eq!(status_of(&error), USAGE);
        error.to_string()
    }

    #[test]
    fn defaults_are_accepted() {
        check(&args(&[])).expect("accepted");
    }

    #[test]
    fn too_little_memory_names_value_and_minimum() {
        assert_eq!(refusal(&["--memory", "3"]), "--memory: 3 bytes is too little, a guest needs at least 4M");
    }

    #[test]
    fn a_limit_leaves_a_guest_something() {
        assert!(refusal(&["--memory-max", "1M"]).contains("at least 4M"));
        check(&args(&["--memory-max", "64M"])).expect("accepted");
    }

    #[test]
    fn a_balloon_leaves_a_guest_something_and_takes_something() {
        assert!(refusal(&["--balloon", "1M"]).contains("at least 4M"));
        assert_eq!(refusal(&["--balloon", "512M"]), "--balloon 512M: more than its 256M");
        check(&args(&["--balloon", "64M"])).expect("accepted");
    }

    #[test]
    fn counts_name_value_and_limits() {
        assert_eq!(refusal(&["--vcpus", "33"]), "--vcpus 33: 1 to 32");
        assert_eq!(refusal(&["--vms", "0"]), "--vms 0: 1 to 16");
        assert_eq!(refusal(&["--host-cpus", "9"]), "--host-cpus 9: 1 to 8");
        check(&args(&["--vcpus", "4", "--vms", "4", "--host-cpus", "2"])).expect("accepted");
    }

    #[test]
    fn files_that_cannot_be_kernels_are_refused() {
        assert!(refusal(&["--kernel", "/nonexistent"]).starts_with("--kernel /nonexistent: No such file"));
        assert!(refusal(&["--kernel", "/"]).ends_with("no regular file"));
        assert!(refusal(&["--kernel", "/dev/null"]).ends_with("no regular file"));
    }
}
