//! The locks for state that threads share. In a release build they are the standard library's. In a debug build each
//! lock is also a scheduling [`point`] at which a test may let other threads run first: a model check tries the orders
//! of these points one after another, and a test of whole processes makes threads pause at some of them.

#[cfg(not(debug_assertions))]
pub use std::sync::{Mutex, RwLock};
pub use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

#[cfg(debug_assertions)]
pub mod points;
#[cfg(debug_assertions)]
pub use self::points::{Mutex, RwLock};
