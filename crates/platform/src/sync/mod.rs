//! The locks that threads share state through. In a release build they are those of the standard library. In a debug build
//! each lock is also a [`point`] at which a test may let other threads go first: a model tries the orders of such points one
//! after the other, and a test of whole processes has each thread pause at some of them.

#[cfg(not(debug_assertions))]
pub use std::sync::{Mutex, RwLock};
pub use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

#[cfg(debug_assertions)]
pub mod points;
#[cfg(debug_assertions)]
pub use self::points::{Mutex, RwLock};
