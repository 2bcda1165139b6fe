//! `doctor`: what is here, what would be installed, which machine `auto` picks and why.

use crate::cli::MachineKind;
use crate::machine::{self, Chosen};
use crate::{bench, debian_kernel, fuzz, grub, guest_images, setup, toolchain};
use anyhow::Result;

/// Prints the report; nothing is changed.
///
/// # Errors
/// None at present.
pub(crate) fn run() -> Result<u8> {
    match toolchain::choose(toolchain::TARGET) {
        Ok(toolchain) => println!("toolchain     {toolchain}"),
        Err(reason) => {
            println!("toolchain     missing: {reason:#}");
            println!("              would install {}", toolchain::DEBIAN_PACKAGES.join(" "));
        }
    }
    let choice = machine::choose(MachineKind::Auto)?;
    println!("machine auto  {}: {}", choice.kind, choice.reason);
    for kind in [Chosen::Bochs, Chosen::Kvm] {
        report_machine(kind, choice.kind);
    }
    report_packages("guest kernel", &guest_images::KERNEL_PACKAGES);
    report_packages("initramfs", &guest_images::INITRAMFS_PACKAGES);
    report_packages("fuzzing", &fuzz::PACKAGES);
    report_packages("images", &grub::PACKAGES);
    report_packages("KVM's side", &bench::MONITOR_PACKAGES);
    match guest_images::cached_tiny() {
        Some(path) => println!("tiny Linux    built: {}", path.display()),
        None => println!("tiny Linux    not built yet; the first run builds it"),
    }
    match debian_kernel::cached() {
        Some(path) => println!("Linux for KVM here: {}", path.display()),
        None => println!(
            "Linux for KVM not fetched yet (bench --vs kvm, test nested): {}",
            debian_kernel::PACKAGE
        ),
    }
    Ok(0)
}

fn report_machine(kind: Chosen, chosen: Chosen) {
    let packages = setup::machine_packages(kind);
    let versions = packages.iter().filter_map(|name| Some(format!("{name} {}", setup::version_of(name)?)));
    let versions: Vec<String> = versions.collect();
    let label = match kind {
        Chosen::Kvm | Chosen::Tcg => "qemu",
        Chosen::Bochs => "bochs",
    };
    match (setup::has_machine(kind), kind == chosen) {
        (true, _) => println!("{label:<13} here: {}", versions.join(", ")),
        (false, true) => println!("{label:<13} would install {}", packages.join(" ")),
        (false, false) => println!("{label:<13} not here, not needed"),
    }
}

fn report_packages(label: &str, packages: &[&str]) {
    let missing: Vec<&str> =
        packages.iter().copied().filter(|package| setup::version_of(package).is_none()).collect();
    if missing.is_empty() {
        println!("{label:<13} all packages here");
    } else {
        println!("{label:<13} would install {}", missing.join(" "));
    }
}
