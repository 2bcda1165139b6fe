//! KVM's side of a Linux guest: the same kernel, initial RAM disk and command line, started by the same code (`firmware`), and the
//! same devices but for those that KVM has itself.

use super::super::samples::{Reader, STEP, STEPS, Sample, part};
use super::kvm::{END, STATUS, Side, VARIANT, of_variant};
use super::rows::Variant;
use crate::bochs::Pace;
use crate::guest_images;
use crate::metal;
use crate::progress::Step;
use anyhow::{Context, Result, bail, ensure};
use std::io::BufRead;
use std::path::Path;

/// RAM of the guest, in MiB: as much as `run` gives it.
const MIB: u32 = 256;
/// KVM with an EPT, and without.
pub(in super::super) const VARIANTS: [Variant; 2] = [Variant::Ept, Variant::Shadow];

/// What a guest says, by variant.
pub(in super::super) type Said = Vec<(Variant, String, u64)>;
/// What its monitor calls the boot.
const BOOT: &str = "boot, to /init";

/// Runs it; what it says, and where the machine was meanwhile.
///
/// # Errors
/// Something is missing and cannot be installed or built, or a guest fails.
pub(in super::super) fn measure(told: &str) -> Result<(Said, Vec<Sample>)> {
    let tiny = guest_images::tiny(&metal::build()?)?;
    let initrd = tiny.initrd.context("the tiny Linux has a user space")?;
    let side = Side::make("")?;
    let monitor = format!("kvm-vmm /linux {MIB} '{} {told}' /initrd", tiny.append);
    let runs = VARIANTS.iter().enumerate().map(|(index, &variant)| {
        side.with_paging(variant.kvm_module(), index == 0) + &of_variant(variant, &monitor)
    });
    let files: [(&str, &Path); 2] = [("/linux", &tiny.kernel), ("/initrd", &initrd)];
    let pace = Pace::StepsFromBreak { count: STEPS, ticks: STEP };
    let (said, samples) = side.run(&files, &runs.collect::<String>(), pace, follow, all)?;
    Ok((said, samples))
}

/// Ticks of each variant's boot that were spent outside the guest: the monitor breaks before it enters the guest first.
///
/// # Errors
/// There are not as many breaks and boots as variants.
pub(in super::super) fn outside(said: &Said, samples: &[Sample]) -> Result<Vec<u64>> {
    let begins: Vec<u64> =
        samples.iter().filter(|sample| sample.is_break).map(|sample| sample.time).collect();
    let boots: Vec<u64> = said.iter().filter(|(_, name, _)| name == BOOT).map(|(.., ticks)| *ticks).collect();
    let (begun, ended) = (begins.len(), boots.len());
    ensure!(begun == VARIANTS.len() && ended == begun, "{begun} boots have begun, {ended} have ended");
    let outside = |(begin, boot): (u64, u64)| {
        let is_whole = samples.last().is_some_and(|last| last.time >= begin + boot);
        ensure!(is_whole, "the samples end before the boot that began at {begin}");
        let part = part(samples, begin..begin + boot, is_host).context("no samples of a boot")?;
        Ok((part * boot as f64) as u64)
    };
    begins.into_iter().zip(boots).map(outside).collect()
}

/// Whether that is Linux with KVM and its monitor, and not the guest, which has no programs before /init, no modules, and its kernel
/// elsewhere in the machine's memory. `nokaslr`: the host's lies where it was linked to, as its map of all kernels' text says.
fn is_host(sample: &Sample) -> bool {
    const TEXT: u64 = 0xffff_ffff_8000_0000;
    const MODULES: u64 = 0xffff_ffff_c000_0000;
    sample.ring == 3
        || sample.address >= MODULES
        || sample.address.checked_sub(TEXT).is_some_and(|offset| offset == sample.physical)
}

fn all(printed: Box<dyn BufRead>) -> Vec<Sample> {
    let mut reader = Reader::default();
    let lines = printed.split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| reader.take(&String::from_utf8_lossy(&line))).collect()
}

fn follow(lines: impl BufRead) -> Result<Said> {
    let mut step = Step::new("measuring a Linux on KVM");
    let (mut said, mut variant) = (Said::new(), None);
    for line in lines.split(b'\n') {
        let line = line.context("the Linux with KVM has gone silent")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        step.tick(&line);
        if line == END {
            ensure!(!said.is_empty(), "the guest of KVM has measured nothing");
            return Ok(said);
        }
        if let Some(name) = line.strip_prefix(VARIANT) {
            variant = Variant::of(name);
        } else if let Some(status) = line.strip_prefix(STATUS) {
            ensure!(status == "0", "the guest of KVM ended with {status}");
        } else if let (Some(variant), Some((name, ticks))) = (variant, cost(&line)) {
            said.push((variant, name.to_owned(), ticks));
        } else if variant.is_some() && !line.is_empty() {
            eprintln!("kvm: {line}");
        }
    }
    bail!("the Linux with KVM ended without a result")
}

/// `cost: NAME TICKS`; a name may have blanks.
fn cost(line: &str) -> Option<(&str, u64)> {
    let (name, ticks) = line.strip_prefix("cost: ")?.rsplit_once(' ')?;
    Some((name, ticks.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Variant, follow};

    #[test]
    fn what_a_guest_says_is_of_its_variant() {
        let text =
            "variant: ept\r\ncost: boot, to /init 12\r\nstatus: 0\nvariant: shadow\ncost: fork 7\nthe end\n";
        let said = follow(text.as_bytes()).expect("two figures");
        let expected =
            [(Variant::Ept, "boot, to /init".to_owned(), 12), (Variant::Shadow, "fork".to_owned(), 7)];
        assert_eq!(said, expected);
        assert!(follow("variant: ept\nstatus: 4\nthe end\n".as_bytes()).is_err());
    }
}
