//! Reads from the first ATA disk, by programmed I/O with 28-bit block addresses (ATA/ATAPI-6, 8.34 READ
//! SECTORS): the command once for up to 256 sectors, then for each sector wait for DRQ and read 256 words.
//!
//! The BIOS boots drive 0x80 from here; any other boot disk needs a driver that the loader does not have.

use core::arch::asm;
use loader::LoadError;
use x86::io::{inb, outb};

const DATA: u16 = 0x1f0;
const ERROR: u16 = 0x1f1;
const SECTOR_COUNT: u16 = 0x1f2;
const LBA_LOW: u16 = 0x1f3;
const LBA_MID: u16 = 0x1f4;
const LBA_HIGH: u16 = 0x1f5;
const DEVICE: u16 = 0x1f6;
const STATUS: u16 = 0x1f7;
const COMMAND: u16 = 0x1f7;
const CONTROL: u16 = 0x3f6;

/// LBA addressing, device 0.
const DEVICE_0_LBA: u8 = 0xe0;
/// No interrupts.
const NIEN: u8 = 1 << 1;
const READ_SECTORS: u8 = 0x20;

const BUSY: u8 = 1 << 7;
const DEVICE_FAULT: u8 = 1 << 5;
const DATA_REQUEST: u8 = 1 << 3;
const FAILED: u8 = 1 << 0;

const SECTOR: usize = 512;
const MOST_SECTORS: usize = 256;
const LBA_END: u64 = 1 << 28;
/// Status reads before a disk counts as dead: a read takes about a microsecond on a real bus.
const PATIENCE: u32 = 10_000_000;

/// Fills `target`, whole sectors, from sector `lba` on.
pub(crate) fn read(lba: u32, target: &mut [u8]) -> Result<(), LoadError> {
    if u64::from(lba) + (target.len() / SECTOR) as u64 > LBA_END {
        return Err(LoadError::TooLong { bytes: target.len() as u64 });
    }
    let mut next = lba;
    for run in target.chunks_mut(MOST_SECTORS * SECTOR) {
        read_run(next, run)?;
        next += (run.len() / SECTOR) as u32;
    }
    Ok(())
}

/// One command.
fn read_run(lba: u32, run: &mut [u8]) -> Result<(), LoadError> {
    let [low, mid, high, top] = lba.to_le_bytes();
    // A count of 256 is written as 0.
    let count = (run.len() / SECTOR) as u8;
    let set_up = [
        (CONTROL, NIEN),
        (DEVICE, DEVICE_0_LBA | top & 0x0f),
        (SECTOR_COUNT, count),
        (LBA_LOW, low),
        (LBA_MID, mid),
        (LBA_HIGH, high),
        (COMMAND, READ_SECTORS),
    ];
    for (port, value) in set_up {
        // SAFETY: the primary ATA channel is the loader's: the BIOS is done with it.
        unsafe { outb(port, value) };
    }
    for sector in run.chunks_exact_mut(SECTOR) {
        wait_for_data(lba)?;
        // SAFETY: writes the 256 words of `sector`.
        unsafe {
            asm!("rep insw", in("dx") DATA, inout("rdi") sector.as_mut_ptr() => _,
                 inout("rcx") SECTOR / 2 => _, options(nostack));
        }
    }
    Ok(())
}

fn wait_for_data(lba: u32) -> Result<(), LoadError> {
    // SAFETY: a status read, which also acknowledges an interrupt that nobody waits for.
    let status = || unsafe { inb(STATUS) };
    for _ in 0..4 {
        // Four reads of the alternate status take the 400 ns that BUSY needs to rise.
        // SAFETY: a read without effect.
        let _ = unsafe { inb(CONTROL) };
    }
    for _ in 0..PATIENCE {
        let status = status();
        if status & BUSY != 0 {
            continue;
        }
        if status & (FAILED | DEVICE_FAULT) != 0 {
            // SAFETY: a read of the error register.
            return Err(LoadError::Disk { lba, status, error: unsafe { inb(ERROR) } });
        }
        if status & DATA_REQUEST != 0 {
            return Ok(());
        }
    }
    Err(LoadError::DiskTimeOut { lba, status: status() })
}
