//! The disk of a QEMU machine, virtio mostly: Herald's to write to, as its label says (`abi::swapdisk`), or one to test what
//! Herald does with others.
//!
//! A sparse file in the directory of the run. QEMU's blkdebug makes reads fail, its null device makes them take longer
//! than anybody waits.

use crate::cli::Disk;
use crate::swap::make_disk;
use abi::swapdisk::SLOT_BYTES;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::Command;

const BYTES: u64 = 64 << 20;
const FILE: &str = "swap";
const FAILURES: &str = "failures";
/// Nanoseconds.
const AN_HOUR: u64 = 3_600_000_000_000;
/// Makes the disk in `dir`, with room for `bytes` in slots at least, where QEMU runs, and adds it to the command.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn attach(command: &mut Command, disk: Disk, bytes: u64, dir: &Path) -> Result<()> {
    if disk == Disk::None {
        return Ok(());
    }
    // The label takes a slot's room.
    write(disk, (bytes + SLOT_BYTES).max(BYTES), &dir.join(FILE))
        .context("cannot write the machine's disk")?;
    if let Some(event) = failing_event(disk) {
        // Each such access to the file ends with EIO.
        let rule = format!("[inject-error]\nevent = \"{event}\"\nerrno = \"5\"\n");
        std::fs::write(dir.join(FAILURES), rule).context(FAILURES)?;
    }
    if disk == Disk::Ata {
        command.args(["-drive", &format!("if=ide,{}", drive(disk))]);
        return Ok(());
    }
    command.args(["-drive", &format!("if=none,id=swap,{}", drive(disk))]);
    if disk == Disk::Bridged {
        command.args(["-device", "pci-bridge,id=bridge,chassis_nr=1"]);
    }
    command.args(["-device", &format!("virtio-blk-pci,drive=swap,{}", device(disk))]);
    Ok(())
}

/// What blkdebug lets fail.
fn failing_event(disk: Disk) -> Option<&'static str> {
    match disk {
        Disk::Failing => Some("read_aio"),
        Disk::FailingWrites => Some("write_aio"),
        _ => None,
    }
}

/// Where the disk's contents are.
fn drive(disk: Disk) -> String {
    match disk {
        Disk::Silent => format!("driver=null-co,size={BYTES},latency-ns={AN_HOUR}"),
        Disk::Failing | Disk::FailingWrites => format!("format=raw,file=blkdebug:{FAILURES}:{FILE}"),
        Disk::ReadOnly => format!("format=raw,file={FILE},readonly=on"),
        _ => format!("format=raw,file={FILE}"),
    }
}

/// What Herald sees of it.
fn device(disk: Disk) -> &'static str {
    match disk {
        Disk::Bridged => {
            "bus=bridge,addr=3,disable-legacy=on,logical_block_size=4096,physical_block_size=4096"
        }
        // Without a geometry QEMU and SeaBIOS would read the first sector for one.
        Disk::Silent => "cyls=1,heads=1,secs=1",
        _ => "disable-legacy=off",
    }
}

fn write(disk: Disk, bytes: u64, path: &Path) -> std::io::Result<()> {
    match disk {
        Disk::Empty => File::create(path).map(drop),
        Disk::Blank => File::create(path)?.set_len(bytes),
        _ => make_disk(path, bytes - SLOT_BYTES, SLOT_BYTES).map(drop),
    }
}
