//! Four-level tables as data: formats, typed entries, cursors, and the seams to a machine.
//!
//! This crate knows how tables are laid out and walked, in the host format and the EPT format. It does not
//! know who owns a leaf, nor when an entry may change: that is `mm` for primary and `mmu` for secondary tables.
#![no_std]
#![forbid(unsafe_code)]

mod cursor;
mod ept;
mod host;
mod level;
mod memory;
mod parts;
mod shootdown;
mod tables;
mod young;

pub use cursor::{Cursor, Visit, first_shared};
pub use ept::EptEntry;
pub use host::{HostEntry, HostRights};
pub use level::Level;
pub use memory::{EachAlone, Entries, EntryRef, OutOfTables, TableMemory, TableReserve};
pub use parts::{PageTable, Part, Parts};
pub use shootdown::{FlushScope, FlushToken, Shootdown};
pub use tables::{
    Found, Leaf, Note, Rights, TableEntry, View, prune, split, walk, walk_or_grow, walk_owned, walk_to,
    walk_to_page,
};
pub use young::{BlockBits, collect_young, find_used};

#[cfg(test)]
mod tests;
