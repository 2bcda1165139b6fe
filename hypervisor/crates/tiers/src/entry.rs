//! What a slot holds.

use crate::spans::Place;

/// What the bytes of an object are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// A page as it is.
    Raw,
    /// A page, compressed.
    Packed,
    /// The words of a page that are not zero (`sparse.rs`).
    Words,
}

/// Data in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    pub(crate) place: Place,
    /// Bytes.
    pub(crate) len: u16,
    pub(crate) form: Form,
}

impl Object {
    /// Whether it is a page as it is.
    pub(crate) const fn is_raw(self) -> bool {
        matches!(self.form, Form::Raw)
    }
}

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Entry {
    #[default]
    Nothing,
    /// This word, 512 times.
    Filled(u64),
    /// In memory.
    Kept(Object),
    /// In memory, and on its way to this block. No two are on their way to one block: whoever finds the block here finds
    /// the page that he has sent there.
    Leaving(Object, u32),
    /// On disk.
    OnDisk(u32),
}

impl Entry {
    /// The data in memory.
    pub(crate) const fn object(self) -> Option<Object> {
        match self {
            Self::Kept(object) | Self::Leaving(object, _) => Some(object),
            _ => None,
        }
    }
}

const _: () = assert!(size_of::<Entry>() == 16);
