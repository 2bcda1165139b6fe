//! Random instructions against what another processor has made of them.
//!
//! The outcomes of QEMU's are in `recorded_16.txt` and `recorded_32.txt`, a digest for each case. With
//! `HERALD_REALMODE_ORACLE=qemu-system-i386` in the environment QEMU is run again, and what differs is told byte by byte;
//! with `HERALD_REALMODE_RECORD=1` besides, what it said is written to the files.

mod cases;
mod image;

use crate::run::step;
use crate::tests::computer::Computer;
use crate::{Segment, SegmentName, State};
use cases::{Case, Random, case};
use image::{BASE, REPORT, START, image};
use std::borrow::ToOwned;
use std::format;
use std::path::Path;
use std::string::String;
use std::vec::Vec;

/// Cases in each mode.
const CASES: usize = 2000;
/// More than any image needs.
const STEPS: u32 = 4_000_000;
/// CR0 after reset, as QEMU has it: CD, NW, ET.
const CR0: u64 = 0x6000_0010;

#[test]
fn code_of_16_bits_does_what_qemu_does() {
    compare(false, "recorded_16.txt", include_str!("recorded_16.txt"));
}

#[test]
fn code_of_32_bits_does_what_qemu_does() {
    compare(true, "recorded_32.txt", include_str!("recorded_32.txt"));
}

fn compare(big: bool, file: &str, recorded: &str) {
    let mut random = Random(0x4845_5241_4c44 + u64::from(big));
    let cases: Vec<Case> = (0..CASES).map(|_| case(&mut random, big)).collect();
    let image = image(&cases, big);
    let ours = interpret(&image);
    let theirs = std::env::var("HERALD_REALMODE_ORACLE").ok().map(|program| qemu(&program, &image));
    if let Some(theirs) = &theirs {
        compare_bytes(&cases, &ours, theirs);
        if std::env::var("HERALD_REALMODE_RECORD").is_ok() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/oracle").join(file);
            std::fs::write(path, lines(&cases, theirs)).expect("written");
            return;
        }
    }
    assert_eq!(ours.len(), CASES * REPORT);
    let ours = lines(&cases, &ours);
    let differ: Vec<_> = ours.lines().zip(recorded.lines()).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(differ.is_empty(), "{} cases: {differ:x?}", differ.len());
    assert_eq!(recorded.lines().count(), CASES);
}

/// A line for each case: its code, and a digest of what has come of it.
fn lines(cases: &[Case], reports: &[u8]) -> String {
    let line = |(case, report): (&Case, &[u8])| {
        let code: String = case.code.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{code} {:08x}\n", digest(report))
    };
    cases.iter().zip(reports.chunks(REPORT)).map(line).collect()
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn compare_bytes(cases: &[Case], ours: &[u8], theirs: &[u8]) {
    let mut differences = String::new();
    for ((case, ours), theirs) in cases.iter().zip(ours.chunks(REPORT)).zip(theirs.chunks(REPORT)) {
        if ours != theirs {
            let at: Vec<_> = (0..REPORT).filter(|at| ours[*at] != theirs[*at]).collect();
            let (registers, flags) = (case.registers, case.flags);
            differences += &format!(
                "{:02x?} {registers:x?} flags {flags:x}: bytes {at:?}\n ours   {:02x?}\n theirs {:02x?}\n",
                case.code,
                &ours[..44],
                &theirs[..44]
            );
        }
    }
    assert_eq!(ours.len(), theirs.len(), "{differences}");
    assert!(differences.is_empty(), "{differences}");
}

/// Also where the processor could go on by itself.
fn interpret(image: &[u8]) -> Vec<u8> {
    let mut computer = Computer::new(0x10_0000);
    computer.put(BASE, image);
    let mut state = State::started_at(0);
    state.cr0 = CR0;
    state.segments[SegmentName::Cs] = Segment::real((BASE >> 4) as u16, Segment::EXECUTE_READ);
    state.rip = START.into();
    for _ in 0..STEPS {
        let ended = step(&mut state, &mut computer);
        assert_eq!(ended, Ok(None), "{state:x?}");
        if computer.wanted {
            return computer.console;
        }
    }
    panic!("no end: {state:x?}");
}

fn qemu(program: &str, image: &[u8]) -> Vec<u8> {
    let dir = std::env::temp_dir().join(format!("herald-realmode-{}-{}", std::process::id(), image.len()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let at = |name: &str| dir.join(name).to_str().expect("a name").to_owned();
    let mut firmware = std::vec![0; 0x1_0000];
    let segment = ((BASE >> 4) as u16).to_le_bytes();
    let offset = START.to_le_bytes();
    firmware[0xfff0..0xfff5].copy_from_slice(&[0xea, offset[0], offset[1], segment[0], segment[1]]);
    std::fs::write(at("firmware"), firmware).expect("written");
    std::fs::write(at("image"), image).expect("written");
    let status = std::process::Command::new(program)
        .args([
            "-M",
            "isapc",
            "-cpu",
            "max",
            "-m",
            "8",
            "-display",
            "none",
            "-net",
            "none",
            "-bios",
            &at("firmware"),
        ])
        .args(["-device", &format!("loader,file={},addr={BASE:#x},force-raw=on", at("image"))])
        .args([
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
            "-debugcon",
            &format!("file:{}", at("console")),
        ])
        .status()
        .expect("QEMU");
    let console = std::fs::read(at("console")).expect("a console");
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(console.len() % REPORT, 0, "{status}");
    console
}
