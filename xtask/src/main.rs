//! `cargo xtask`: builds Herald and its guests, runs them on a machine, tests and checks the tree.
//!
//! ```text
//!  run:  cli ─► plan ─► metal (cargo) ─► package ─► machine (bochs | kvm) ─► session ─► exit status
//! ```
//!
//! Exit status of `run`: [`abi::status::Status`]. Other commands: 0 done, 1 a check failed, 2 bad arguments.

mod bench;
mod bochs;
mod cli;
mod cpio;
mod debian_kernel;
mod disk;
mod doctor;
mod elf32;
mod error;
mod fuzz;
mod grub;
mod guest_images;
mod guests;
mod image;
mod initramfs;
mod link;
mod machine;
mod metal;
mod package;
mod plan;
mod progress;
mod qemu;
mod run;
mod session;
mod setup;
mod size;
mod snapshots;
mod stress;
mod swap;
mod symbols;
mod terminal;
mod test;
mod tidy;
mod toolchain;
mod tree;
mod virtio_disk;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let command = match cli::Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // `--help` is no error, and goes to standard output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { error::USAGE } else { 0 });
        }
    };
    match dispatch(command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(error::status_of(&error))
        }
    }
}

fn dispatch(command: cli::Command) -> anyhow::Result<u8> {
    match command {
        cli::Command::Run(args) => run::run(&args),
        cli::Command::Build => run::build_only(),
        cli::Command::Test(args) => test::run(&args),
        cli::Command::Fuzz(args) => fuzz::run(&args),
        cli::Command::Bench(args) => bench::run(&args),
        cli::Command::Stress(args) => stress::run(&args),
        cli::Command::Image(args) => image::run(&args),
        cli::Command::Doctor => doctor::run(),
        cli::Command::Tidy(args) => tidy::run(&args),
        cli::Command::Ci => test::ci(),
    }
}
