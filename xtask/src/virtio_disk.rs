//! The virtio disk of a QEMU machine: Herald's to write to, as its label says (`abi::swapdisk`), or one to test what
//! Herald does with others.
//!
//! A sparse file in the directory of the run. QEMU's blkdebug makes reads fail, its null device makes them take longer
//! than anybody waits.

use crate::cli::Disk;
use abi::swapdisk::{self, Label};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use zerocopy::IntoBytes;

const BYTES: u64 = 64 << 20;
const FILE: &str = "swap";
const FAILURES: &str = "failures";
/// Nanoseconds.
const AN_HOUR: u64 = 3_600_000_000_000;
/// Each read of the file ends with EIO.
const EACH_READ_FAILS: &str = "[inject-error]\nevent = \"read_aio\"\nerrno = \"5\"\n";

/// Makes the disk in `dir`, where QEMU runs, and adds it to the command.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn attach(command: &mut Command, disk: Disk, dir: &Path) -> Result<()> {
    let file = |source: &str| format!("if=none,id=swap,format=raw,file={source}");
    let drive = match disk {
        Disk::None => return Ok(()),
        Disk::Silent => format!("if=none,id=swap,driver=null-co,size={BYTES},latency-ns={AN_HOUR}"),
        Disk::Failing => {
            std::fs::write(dir.join(FAILURES), EACH_READ_FAILS).context(FAILURES)?;
            file(&format!("blkdebug:{FAILURES}:{FILE}"))
        }
        Disk::Labelled | Disk::Bridged | Disk::Blank | Disk::Empty => file(FILE),
    };
    if disk != Disk::Silent {
        write(disk, &dir.join(FILE)).context("cannot write the machine's virtio disk")?;
    }
    command.args(["-drive", &drive, "-device"]);
    if disk == Disk::Bridged {
        command.args(["pci-bridge,id=bridge,chassis_nr=1", "-device"]);
        command.arg("virtio-blk-pci,drive=swap,bus=bridge,addr=3,disable-legacy=on");
    } else if disk == Disk::Silent {
        // QEMU would look at the first sector for a geometry; SeaBIOS leaves disks with large blocks alone.
        let of_no_use = "cyls=1,heads=1,secs=1,logical_block_size=4096,physical_block_size=4096";
        command.arg(format!("virtio-blk-pci,drive=swap,{of_no_use}"));
    } else {
        command.arg("virtio-blk-pci,drive=swap,disable-legacy=off");
    }
    Ok(())
}

fn write(disk: Disk, path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    if disk != Disk::Empty {
        file.set_len(BYTES)?;
    }
    if !matches!(disk, Disk::Blank | Disk::Empty) {
        file.write_all(Label::new(swapdisk::room(BYTES)).as_bytes())?;
    }
    Ok(())
}
