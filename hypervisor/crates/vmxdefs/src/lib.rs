//! VMX as data: what the SDM's tables say, without an instruction in it.
//!
//! ```text
//!   capability MSRs ──► Capabilities ──► negotiate ──► controls for the VMCS
//!   VM exit: reason, qualification, … ──► Exit (a closed enum)
//!   failed entry: guest state ──► explain ──► the rules that it breaks, in words
//!   CPUID and MSRs of the host ──► policy tables ──► what the guest sees
//! ```
//!
//! "SDM" is Intel's Software Developer's Manual, volumes 3C and 3D, in the chapter numbering of December 2023.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod capability;
pub mod check;
pub mod controls;
pub mod cpuid;
pub mod event;
pub mod exit;
pub mod field;
pub mod instruction_error;
pub mod invpcid;
pub mod msr;
pub mod registers;
