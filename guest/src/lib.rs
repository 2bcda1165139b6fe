//! What Herald's guest programs share.
#![no_std]

pub mod hypercall;
