//! Ticks outside a Linux guest on Herald while it boots, by samples: the same count that another hypervisor's are, and a check of
//! Herald's own.

use super::samples::{Reader, STEP, STEPS, Sample, part};
use crate::bochs::Pace;
use crate::cli::{Cli, Command};
use crate::progress::Step;
use crate::run::{Prepared, RunDir};
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::io::{BufRead, BufReader};

/// Herald's image; a guest's kernel begins where this ends.
const HERALD: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_8100_0000;

/// Starts what `run` starts with these words; a boot takes so many ticks.
///
/// # Errors
/// It cannot be started, or ends before that.
pub(super) fn outside(words: &[&str], boot: u64) -> Result<u64> {
    let Command::Run(run) = Cli::try_parse_from(["xtask"].iter().chain(words))?.command else {
        bail!("`run` is another command");
    };
    let dir = RunDir::create()?;
    let pace = Pace::Steps { count: STEPS, ticks: STEP };
    let mut running = Prepared::new(&run)?.start_in_steps(pace, &dir)?;
    count(BufReader::new(&mut running.link), boot)
}

/// The guest begins where Herald ends first.
fn count(printed: impl BufRead, boot: u64) -> Result<u64> {
    let mut step = Step::new("sampling a boot");
    let (mut reader, mut samples, mut was_herald) = (Reader::default(), Vec::<Sample>::new(), false);
    for line in printed.split(b'\n') {
        let Some(sample) = reader.take(&String::from_utf8_lossy(&line.context("Bochs")?)) else { continue };
        step.tick("");
        let is_herald = HERALD.contains(&sample.address);
        was_herald |= is_herald;
        if samples.is_empty() && (is_herald || !was_herald) {
            continue;
        }
        samples.push(sample);
        let begin = samples[0].time;
        if sample.time >= begin + boot {
            let found = part(&samples, begin..begin + boot, |sample| HERALD.contains(&sample.address));
            return Ok((found.context("no samples")? * boot as f64) as u64);
        }
    }
    bail!("the boot of the guest has not come to its end")
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn the_guest_begins_where_herald_ends_first() {
        let at = |time: u64, address: u64| {
            format!("Next at t={time}\n(0) [0x000000000000] 0008:{address:016x} (unk. ctxt): nop ; 90\n")
        };
        let (firmware, herald, guest) = (0xf_0000, 0xffff_ffff_8020_0000, 0xffff_ffff_8100_0000);
        let run = [firmware, herald, herald, 0x10_0000, herald, guest, guest, guest, guest];
        let printed: String = run.iter().zip(1..).map(|(&address, time)| at(time * 10, address)).collect();
        assert_eq!(count(printed.as_bytes(), 40).expect("an end"), 10);
        assert!(count(printed.as_bytes(), 400).is_err());
    }
}
