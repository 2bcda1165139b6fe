//! Spin locks, each with its [`Rank`].

use crate::{Rank, held, raw};
use core::ops::{Deref, DerefMut};

/// A spin lock with a place in the lock order.
#[derive(Debug)]
pub struct Mutex<T> {
    rank: Rank,
    inner: raw::Mutex<T>,
}

/// A reader-writer spin lock with a place in the lock order.
#[derive(Debug)]
pub struct RwLock<T> {
    rank: Rank,
    inner: raw::RwLock<T>,
}

impl<T> Mutex<T> {
    /// A lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: raw::Mutex::new(value) }
    }

    /// Waits for the lock.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        held::acquire(self.rank);
        MutexGuard { rank: self.rank, inner: self.inner.lock() }
    }

    /// The value, without a lock: the caller is its only user.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T> RwLock<T> {
    /// A lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: raw::RwLock::new(value) }
    }

    /// Waits for a shared hold.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        held::acquire(self.rank);
        RwLockReadGuard { rank: self.rank, inner: self.inner.read() }
    }

    /// The value, without a lock: the caller is its only user.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Waits for the exclusive hold. Who asks for a shared one later waits behind.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        held::acquire(self.rank);
        RwLockWriteGuard { rank: self.rank, inner: self.inner.write() }
    }
}

macro_rules! guard {
    ($(#[$doc:meta])* $name:ident, $inner:ident) => {
        $(#[$doc])*
        #[must_use]
        #[derive(Debug)]
        pub struct $name<'a, T> {
            rank: Rank,
            inner: raw::$inner<'a, T>,
        }

        impl<T> Deref for $name<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                &self.inner
            }
        }

        impl<T> Drop for $name<'_, T> {
            fn drop(&mut self) {
                held::release(self.rank);
            }
        }
    };
}

guard! {
    /// Holds a [`Mutex`].
    MutexGuard, MutexGuard
}
guard! {
    /// Holds a [`RwLock`] for reading.
    RwLockReadGuard, RwLockReadGuard
}
guard! {
    /// Holds a [`RwLock`] for writing.
    RwLockWriteGuard, RwLockWriteGuard
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
