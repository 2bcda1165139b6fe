//! What Herald's guest programs share: the bare machine as the tests see it, and hypercalls, which the tiny
//! Linux's /init uses too.
#![no_std]

pub mod apic;
pub mod bootinfo;
pub mod cpu;
pub mod host;
pub mod hypercall;
pub mod memory;
pub mod pic;
pub mod port;
pub mod random;
pub mod serial;
pub mod testdev;
pub mod trap;
