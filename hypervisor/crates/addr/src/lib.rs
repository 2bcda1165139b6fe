//! Addresses, page numbers, page sizes and ranges: one newtype per address space.
//!
//! ```text
//!   guest                      host
//!   Gva ──guest tables──► Gpa ──slot──► Hva ──primary tables──► Hpa
//!                         Gfn                                   Pfn
//!                          └────────── secondary tables ─────────┘
//! ```
//!
//! No arithmetic crosses a space: the only ways from one to another are the tables and the slots
//! that the picture names. A page number is always in units of 4 KiB, whatever maps it.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod page;
mod span;

pub use address::{Gpa, Gva, Hpa, Hva};
pub use page::{Gfn, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
pub use span::{GfnRange, GpaRange, HpaRange, HvaRange, PfnRange, Span};

#[cfg(test)]
mod tests;
